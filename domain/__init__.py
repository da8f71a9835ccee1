"""Conversations: their commands, events, state and rules. Pure: no I/O and no clock."""
