"""What `scripts.bench` is made of: `site` runs what is measured, `client` makes the requests, `noop` is the floor of HTTP;
`over_http`, `in_process`, `visibility`, `flat`, `two_apis`, `memory` and `rebuilding` measure, `figures` holds and shows what came out."""
