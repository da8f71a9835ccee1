"""Tokens as a provider counts them."""

from typing import Any


def count_in(usage: Any, *path: str) -> int:
    """A number of tokens out of a provider's usage; 0 where there is none that could be one."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if type(usage) is int and 0 <= usage < 2**53 else 0
