"""Building a view again from the log, beside the live one, while users keep reading."""
