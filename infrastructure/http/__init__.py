"""What both APIs render alike: errors, request ids, bodies, headers. Commands and queries import it; it imports neither."""
