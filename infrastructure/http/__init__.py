"""What the command API and the query API share: routes, bodies, headers, errors, metrics. Both import this package; it imports neither."""
