"""What renderers share: the text of parts, and the summary a compaction carries. Each is part of what they render: it never changes.

A change that a provider would see goes into a new renderer.
"""

import base64
import binascii
from typing import Any

import msgspec

from domain.items import Item, type_of

SUMMARY = "Summary of the conversation so far:\n"
"""What a summary begins with, where a model is sent one."""


def summary_of(item: Item) -> str | None:
    """The summary that a `compaction` item carries; None where its `encrypted_content` is not ours.

    Ours is base64 of UTF-8 JSON: {"summary": "…"}.
    """
    content = item.get("encrypted_content")
    if type_of(item) != "compaction" or not isinstance(content, str):
        return None
    try:
        read = msgspec.json.decode(base64.b64decode(content, validate=True))
    except (ValueError, binascii.Error, RecursionError):  # DecodeError and half a character are ValueErrors
        return None
    summary = read.get("summary") if isinstance(read, dict) else None
    return summary if isinstance(summary, str) else None


def text_of_part(part: Any) -> str | None:
    """The words of a part of a message or an output; None where it has none."""
    if not isinstance(part, dict):
        return None
    text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return text if isinstance(text, str) else None


def without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
