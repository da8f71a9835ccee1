"""Finds which calls and outputs belong together. A new request that is made of items never has one without the other. Pure."""

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
"""Types of calls. Each call needs an output item, whose type is the call's type followed by `_output`. Items of other types need no output."""

_OUTPUT = "_output"
_MESSAGE = frozenset({"message"})


def non_messages(items: Sequence[Item]) -> list[tuple[int, Item]]:
    """(index, item) of the items that are no messages. They are few, so it is fast to check only these."""
    if _MESSAGE.issuperset(map(dict.get, items, repeat("type"), repeat("message"))):
        return []  # a context may have thousands of messages and nothing else
    return [(index, item) for index, item in enumerate(items) if item.get("type", "message") != "message"]


def call_key(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """(the call's type, the call's id), the same for a call and its output. None for other items."""
    if (kind := type_of(item)) == "message":
        return None
    kind = kind.removesuffix(_OUTPUT)
    return (kind, str(item.get("call_id") or item.get("id") or "")) if kind in CALLS else None


def is_output(item: Mapping[str, Any]) -> bool:
    """Whether an item that has a `call_key` is an output."""
    return type_of(item).endswith(_OUTPUT)


def pairs(items: Sequence[Item]) -> list[tuple[int, int]]:
    """The indices (call, output) that belong together, in the order of the outputs.

    An output belongs to the last call before it that has the same id. If two calls have the same id and no output is between them, the first
    one has no output. If two outputs follow one call, the second one has no call.
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
    """By index: `orphaned_call` for a call without an output, `orphaned_output` for an output without a call."""
    in_pairs = {index for pair in pairs(items) for index in pair}
    return {
        index: "orphaned_output" if is_output(item) else "orphaned_call"
        for index, item in non_messages(items)
        if index not in in_pairs and call_key(item) is not None
    }
