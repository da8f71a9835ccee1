"""Finds which calls and outputs belong together. Pure."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from domain.items import Item, type_of

CALLS = (
    "function_call",
    "custom_tool_call",
    "computer_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
)
"""The type of an output is the call's type followed by `_output`."""

_OUTPUT = "_output"
_MESSAGE = frozenset({"message"})


def non_messages(items: Sequence[Item]) -> list[tuple[int, Item]]:
    if _MESSAGE.issuperset(map(dict.get, items, repeat("type"), repeat("message"))):
        return []  # a context may have thousands of messages and nothing else
    return [(index, item) for index, item in enumerate(items) if item.get("type", "message") != "message"]


def call_key(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """A call and its output have the same key. None for other items."""
    if (kind := type_of(item)) == "message":
        return None
    kind = kind.removesuffix(_OUTPUT)
    return (kind, str(item.get("call_id") or item.get("id") or "")) if kind in CALLS else None


def is_output(item: Mapping[str, Any]) -> bool:
    return type_of(item).endswith(_OUTPUT)


def pairs(items: Sequence[Item]) -> list[tuple[int, int]]:
    """(call, output) indices.

    An output belongs to the last call before it with the same `call_key`. A call has at most one output.
    """
    open_calls: dict[tuple[str, str], int] = {}
    paired: list[tuple[int, int]] = []
    for index, item in non_messages(items):
        if (key := call_key(item)) is None:
            continue
        if not is_output(item):
            open_calls[key] = index
        elif (call := open_calls.pop(key, None)) is not None:
            paired.append((call, index))
    return paired


def orphans(items: Sequence[Item]) -> dict[int, str]:
    in_pairs = {index for pair in pairs(items) for index in pair}
    return {
        index: "orphaned_output" if is_output(item) else "orphaned_call"
        for index, item in non_messages(items)
        if index not in in_pairs and call_key(item) is not None
    }
