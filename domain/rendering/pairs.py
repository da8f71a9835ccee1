"""Calls that a client answers, and their outputs. A call that its provider makes and answers itself is none."""

from collections.abc import Sequence

from domain.items import Item, type_of


def pairs(items: Sequence[Item]) -> dict[int, int]:
    """The index of each call that has its output after it -> the index of that output.

    A pair is of one kind (`X_call` and `X_call_output`) and of one `call_id`. Where a call_id comes again, an output belongs to
    the last such call before it that has none.
    """
    waiting: dict[tuple[str, str], list[int]] = {}
    paired: dict[int, int] = {}
    for index, item in enumerate(items):
        kind, call_id = type_of(item), item.get("call_id")
        if not isinstance(call_id, str):
            continue
        if kind.endswith("_call_output"):
            calls = waiting.get((kind.removesuffix("_output"), call_id))
            if calls:
                paired[calls.pop()] = index
        elif is_call(item):
            waiting.setdefault((kind, call_id), []).append(index)
    return paired


def is_call(item: Item) -> bool:
    """Whether an output has to follow: the provider's own tools (`web_search_call`, `mcp_call` …) have theirs inside."""
    kind = type_of(item)
    return kind == "function_call" or (kind.endswith("_call") and kind not in _WHOLE and "call_id" in item)


_WHOLE = frozenset(
    {"file_search_call", "web_search_call", "image_generation_call", "code_interpreter_call", "mcp_call"}
)
