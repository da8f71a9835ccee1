"""Asks a model for a reply and keeps its answer: the provider, the running reply, its record, its stream, its lease, the Response."""
