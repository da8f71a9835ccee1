"""The read side: serves GET and HEAD from the views, and from the log what no view has. Never imports `commands`."""
