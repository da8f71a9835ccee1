"""Calls and their outputs: which belong together, and which are alone, so that no provider is sent half of a pair. Pure."""

from collections.abc import Mapping, Sequence
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
"""The types whose items are answered by one of the same type and `_output`. A type that is not here answers itself."""

_OUTPUT = "_output"


def beside_messages(items: Sequence[Item]) -> list[tuple[int, Item]]:
    """The items, by index, but for those that say they are messages: no calls, and in a long conversation nearly all there is."""
    return [(index, item) for index, item in enumerate(items) if item.get("type") != "message"]


def call_key(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a call and its output have in common: (the call's type, the call's id); None of any other item."""
    if (kind := type_of(item)) == "message":
        return None
    kind = kind.removesuffix(_OUTPUT)
    return (kind, str(item.get("call_id") or item.get("id") or "")) if kind in CALLS else None


def is_output(item: Mapping[str, Any]) -> bool:
    """Whether it is the output of a call, where it is either."""
    return type_of(item).endswith(_OUTPUT)


def pairs(items: Sequence[Item]) -> list[tuple[int, int]]:
    """The indices (call, output) of those that belong together, by output.

    An output answers the last call of its id before it, once. Of two calls of one id with no output between them, the first
    is alone; so is the second of two outputs.
    """
    waiting: dict[tuple[str, str], int] = {}
    found: list[tuple[int, int]] = []
    for index, item in beside_messages(items):
        if (key := call_key(item)) is None:
            continue
        if not is_output(item):
            waiting[key] = index
        elif (call := waiting.pop(key, None)) is not None:
            found.append((call, index))
    return found


def orphans(items: Sequence[Item]) -> dict[int, str]:
    """Those of `items` that are alone, by index: `orphaned_call`, `orphaned_output`."""
    together = {index for pair in pairs(items) for index in pair}
    return {
        index: "orphaned_output" if is_output(item) else "orphaned_call"
        for index, item in beside_messages(items)
        if index not in together and call_key(item) is not None
    }
