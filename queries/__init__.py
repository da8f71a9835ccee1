"""The read side: serves GET and HEAD from the views, and from the log. Never imports `commands`."""
