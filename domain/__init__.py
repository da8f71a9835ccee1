"""Conversations: their commands, events, state and rules. Pure: no I/O, no clock; only the standard library and msgspec."""
