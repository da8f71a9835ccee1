"""GET and HEAD: what is read, from the views and, where it must be, from the log. Never imports `commands`."""
