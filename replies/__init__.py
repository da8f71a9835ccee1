"""Replies as both sides know them: the events of their streams, what the log has of them, and the live tail in Redis."""
