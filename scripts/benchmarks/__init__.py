"""What `scripts.bench` is made of: `site` runs what is measured, `client` makes the requests, `noop` is the floor of HTTP;
`over_http`, `in_process`, `visibility`, `flat` and `two_apis` measure, `figures` holds and shows what came out."""
