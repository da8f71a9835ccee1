"""Finds the items of a request's input that only repeat the history.

Some clients send earlier items again, although they name a conversation. Pure.

An output is left out if its call already has an output on the path. If the input repeats the call, both calls and both
outputs must be equal, because some models reuse call ids. Of several new outputs of one call, only the last stays.
Items before a repeated output are left out if the path has these items too.

From the repeated output, the input and the path are compared backwards. The path may have more calls, outputs,
answers and reasoning, because clients leave some out. The comparison ends at a message that differs and is not the
assistant's. A message with no repeated output after it is always new, because a user may say "yes" twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from context.rendering.orphans import call_key, is_output
from domain.items import Item, content_parts, type_of

_TEXT_PARTS = ("input_text", "output_text", "text")
_NOT_COMPARED = frozenset({"id", "status", "phase"})
"""The store or the API adds these fields. Clients do not always send these fields back."""

_CallKey = tuple[str, str]


def repeated(newest_first: Sequence[Item], input_items: Sequence[Item]) -> set[int]:
    """The indexes of the input items that are left out."""
    answered = dict(_answered(newest_first, input_items))
    left_out = set(answered)
    ends = _ends_of_calls(newest_first)
    newly_answered: set[_CallKey | None] = set()
    position: int | None = None
    for index in reversed(range(len(input_items))):
        item = input_items[index]
        key = call_key(item)
        if index in answered:
            position = answered[index]
        elif _is_output(item):
            newly_answered.add(key)
        elif position is not None:
            is_new = key is not None and key in newly_answered and ends.get(key) is not None
            position = None if is_new else _position_of(item, newest_first, position + 1)
            if position is not None:
                left_out.add(index)
    return left_out


def needs_older(newest_first: Sequence[Item], input_items: Sequence[Item]) -> bool:
    """Whether `repeated` needs older items of the path.

    A call of the input is no reason to read on, because most calls are new.
    """
    if not newest_first:
        return has_outputs(input_items)
    ends = _ends_of_calls(newest_first)
    if any(key not in ends for key in _outputs_without_call(input_items)):
        return True
    answered = [position for _, position in _answered(newest_first, input_items)]
    if not answered:
        return False
    older = newest_first[max(0, *answered) :]
    return sum(map(_ends_comparison, older)) < len(input_items)


def has_outputs(input_items: Sequence[Item]) -> bool:
    """Without an output, no item of the input is left out."""
    return any(map(_is_output, input_items))


def _answered(newest_first: Sequence[Item], input_items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    """(index in the input, index in the path) of each output that repeats an output of the path.

    Of several new outputs of one call, yields (index, -1) for each but the last.
    """
    ends = _ends_of_calls(newest_first)
    new_calls: set[_CallKey] = set()
    equal_calls: set[_CallKey] = set()
    last_outputs: dict[_CallKey, int] = {}
    for index, item in enumerate(input_items):
        if (key := call_key(item)) is None:
            continue
        position = ends.get(key)
        if not is_output(item):
            is_equal = position is not None and _answers_equal_call(newest_first, position, item)
            (equal_calls if is_equal else new_calls).add(key)
            last_outputs.pop(key, None)
            continue
        if position is not None and key in equal_calls and _compared(newest_first[position]) != _compared(item):
            new_calls.add(key)
        if position is not None and key not in new_calls:
            yield index, position
        elif key in new_calls or key in ends:
            if key in last_outputs:
                yield last_outputs[key], -1
            last_outputs[key] = index


def _ends_of_calls(newest_first: Sequence[Item]) -> Mapping[_CallKey, int | None]:
    ends: dict[_CallKey, int | None] = {}
    for index, item in enumerate(newest_first):
        key = call_key(item)
        if key is not None and key not in ends:
            ends[key] = index if is_output(item) else None
    return ends


def _outputs_without_call(input_items: Sequence[Item]) -> Iterator[_CallKey]:
    calls: set[_CallKey] = set()
    for item in input_items:
        if (key := call_key(item)) is None:
            continue
        if not is_output(item):
            calls.add(key)
        elif key not in calls:
            yield key


def _answers_equal_call(newest_first: Sequence[Item], position: int, call: Item) -> bool:
    key = call_key(call)
    calls = (item for item in newest_first[position:] if call_key(item) == key and not is_output(item))
    return _compared(next(calls, {})) == _compared(call)


def _position_of(item: Item, newest_first: Sequence[Item], start: int) -> int | None:
    """None if no item is equal, or if a message that differs and is not the assistant's comes first."""
    compared = _compared(item)
    for position in range(start, len(newest_first)):
        if _compared(newest_first[position]) == compared:
            return position
        if _ends_comparison(newest_first[position]):
            return None
    return None


def _ends_comparison(item: Item) -> bool:
    return type_of(item) == "message" and item.get("role") != "assistant"


def _is_output(item: Item) -> bool:
    return call_key(item) is not None and is_output(item)


def _compared(item: Item) -> dict[str, Any]:
    compared = {name: value for name, value in item.items() if name not in _NOT_COMPARED and value is not None}
    if isinstance(arguments := item.get("arguments"), str):
        compared["arguments"] = _compared_json(arguments)
    if item and type_of(item) == "message":
        compared |= {"type": "message", "content": [_compared_part(part) for part in content_parts(item)]}
    return compared


def _compared_json(text: str) -> bytes | str:
    """Some clients decode a call's arguments and encode them again. So spaces and the order of names may differ."""
    try:
        return msgspec.json.encode(msgspec.json.decode(text), order="deterministic")
    except (msgspec.DecodeError, RecursionError):
        return text


def _compared_part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
        return part.get("text")
    return part
