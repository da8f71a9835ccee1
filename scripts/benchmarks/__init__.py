"""What `scripts.bench` is made of: `site` runs what is measured, `client` makes the requests, `looking` watches the views, `noop` and
`floor_context` are floors of HTTP; `over_http`, `in_process`, `visibility`, `reading`, `flat`, `two_apis`, `memory`, `rebuilding` and
`under_rebuild` measure, `figures` holds and shows what came out."""
