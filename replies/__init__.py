"""Asks a model for a reply, streams the reply and records it."""
