"""The conversation, pure: what can happen to it and by which rules. Standard library and msgspec only; no I/O, no clock."""
