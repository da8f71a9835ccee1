"""Writes as JSON text how a client's message differs from the message made of its items. Pure.

The text has one operation for the whole message. An operation makes a new value out of an old one. An operation is
an object with one of these fields:

    is        the new value itself
    cut       the piece of a text from one index to another: [start, end]
    around    a text, with other texts before and after it: [before, after]
    edit      the first characters of the old text, then another text, then the last characters of the old text: [count, text, count]
    fields    an object with changed fields: [{field: operation}, [fields that are left out]]. Other fields stay
    list      a list. Each entry is the index of an element that stays, or [index, operation], or {"is": value}
    parts     makes a text the only part of a list, and applies this operation to the list
    text      joins the texts of a list of parts, and applies this operation to the joined text
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from domain.content_references import reference_of, slot_of

Json = dict[str, Any]
_Operation = Json | None
"""None: the value stays as it is."""


def changes_between(plain: Json, sent: Json) -> bytes | None:
    """Returns None if both are equal as JSON values. The order of fields does not matter."""
    operation = _between(plain, sent)
    return None if operation is None else msgspec.json.encode(operation)


def changed(plain: Json, changes: bytes | None) -> Json:
    if changes is None:
        return plain
    message: Json = _apply(msgspec.json.decode(changes), plain)
    return message


def _between(plain: Any, sent: Any) -> _Operation:
    if isinstance(plain, dict) and isinstance(sent, dict):
        return _between_objects(plain, sent)
    if isinstance(plain, list) and isinstance(sent, list):
        return _between_lists(plain, sent)
    if isinstance(plain, str) and isinstance(sent, str):
        return None if plain == sent else _between_texts(plain, sent)
    return None if _key(plain) == _key(sent) else {"is": sent}


def _between_objects(plain: Json, sent: Json) -> _Operation:
    if _names_another_content(plain, sent):
        return {"is": sent}  # in one piece, so that `domain/named_contents.py` finds the content
    operations = {}
    for name, value in sent.items():
        operation = {"is": value} if name not in plain else _between_fields(plain[name], value)
        if operation is not None:
            operations[name] = operation
    left_out = [name for name in plain if name not in sent]
    return {"fields": [operations, left_out]} if operations or left_out else None


def _names_another_content(plain: Json, sent: Json) -> bool:
    before, now = slot_of(plain), slot_of(sent)
    return now is not None and reference_of(now.text) is not None and (before is None or before.text != now.text)


def _between_fields(plain: Any, sent: Any) -> _Operation:
    if isinstance(plain, str) and isinstance(sent, list):
        return {"parts": _between_lists(_as_parts(plain), sent)}
    if isinstance(plain, list) and isinstance(sent, str) and (text := _text_of(plain)) is not None:
        return {"text": _between(text, sent)}
    return _between(plain, sent)


def _between_lists(plain: Sequence[Any], sent: Sequence[Any]) -> _Operation:
    made_keys, sent_keys = [_key(element) for element in plain], [_key(element) for element in sent]
    if made_keys == sent_keys:
        return None
    indexes = {key: index for index, key in reversed([*enumerate(made_keys)])}
    entries: list[Any] = []
    expected = 0
    for element, key in zip(sent, sent_keys, strict=True):
        index = indexes.get(key)
        if index is not None:
            entries.append(index)
        elif expected < len(plain) and (operation := _between(plain[expected], element)) is not None:
            index = expected
            entries.append(operation if "is" in operation else [index, operation])
        else:
            entries.append({"is": element})
        expected = (expected if index is None else index) + 1
    return {"list": entries}


def _key(element: Any) -> bytes:
    """The value as JSON text with sorted fields. 1, 1.0 and true have different keys, although they are equal in Python."""
    return msgspec.json.encode(element, order="deterministic")


def _between_texts(plain: str, sent: str) -> Json:
    if sent and (start := plain.find(sent)) != -1:
        return {"cut": [start, start + len(sent)]}
    if plain and (start := sent.find(plain)) != -1:
        return {"around": [sent[:start], sent[start + len(plain) :]]}
    before = _common(plain, sent)
    after = _common(plain[before:][::-1], sent[before:][::-1])
    return {"edit": [before, sent[before : len(sent) - after], after]} if before + after > 16 else {"is": sent}


def _common(left: str, right: str) -> int:
    """How many characters at the beginning are equal."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _apply(operation: _Operation, plain: Any) -> Any:
    if operation is None:
        return plain
    [(name, value)] = operation.items()
    match name:
        case "is":
            return value
        case "cut":
            return plain[value[0] : value[1]]
        case "around":
            return value[0] + plain + value[1]
        case "edit":
            return plain[: value[0]] + value[1] + plain[len(plain) - value[2] :]
        case "fields":
            operations, left_out = value
            kept = {field: plain[field] for field in plain if field not in left_out}
            return kept | {field: _apply(inner, plain.get(field)) for field, inner in operations.items()}
        case "list":
            return [_entry(entry, plain) for entry in value]
        case "parts":
            return _apply(value, _as_parts(plain))
        case "text":
            return _apply(value, _text_of(plain))
    raise ValueError(f"No operation {name}")


def _entry(entry: Any, plain: Sequence[Any]) -> Any:
    if isinstance(entry, dict):
        return _apply(entry, None)
    return plain[entry] if isinstance(entry, int) else _apply(entry[1], plain[entry[0]])


def _as_parts(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def _text_of(parts: Sequence[Any]) -> str | None:
    texts = [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None
