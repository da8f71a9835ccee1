"""Decodes and cleans the JSON and the text of providers. Some providers split a surrogate pair over two chunks."""

import json
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_SURROGATE_IN_JSON = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode_json(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Accepts halves of surrogate pairs in strings. Raises ValueError."""
    try:
        return decoder.decode(data)
    except ValueError:
        if _SURROGATE_IN_JSON.search(data) is None:
            raise
    text = data.decode("utf-8", "surrogatepass")
    value = json.loads(text, object_hook=_with_clean_names, parse_constant=_refuse)
    return msgspec.convert(value, decoder.type)


def clean(text: str) -> str:
    """The text without NUL, with surrogate pairs joined, and lone halves replaced by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_value(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case dict():
            return {clean(name): clean_value(member) for name, member in value.items()}
        case list():
            return [clean_value(member) for member in value]
        case _:
            return value


def split_half(text: str) -> tuple[str, str]:
    """(text, half): `half` is the first half of a surrogate pair, cut off the end of the text, or empty."""
    if text and "\ud800" <= text[-1] <= "\udbff":
        return text[:-1], text[-1]
    return text, ""


def _with_clean_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {clean(name): value for name, value in fields.items()}


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
