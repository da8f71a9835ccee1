"""The read side: serves GET and HEAD. It reads the views, and the log for data that no view has. Never imports `commands`."""
