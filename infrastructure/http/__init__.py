"""What both APIs do with HTTP alike: routes, bodies, headers, errors, metrics. Commands and queries import it; it imports neither."""
