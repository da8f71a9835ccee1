"""Functions that several renderers share.

Never change what these functions return, because a renderer's output must not change.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from domain.items import Item, type_of

SUMMARY = "Summary of the conversation so far:\n"


def summary_of(item: Item) -> str | None:
    """The summary in a `compaction` item: `encrypted_content` is base64 of UTF-8 JSON {"summary": "…"}.

    None for other items, and for other content.
    """
    content = item.get("encrypted_content")
    if type_of(item) != "compaction" or not isinstance(content, str):
        return None
    try:
        decoded = msgspec.json.decode(base64.b64decode(content, validate=True))
    except (ValueError, binascii.Error, RecursionError):  # msgspec.DecodeError and UnicodeDecodeError are ValueErrors
        return None
    summary = decoded.get("summary") if isinstance(decoded, dict) else None
    return summary if isinstance(summary, str) else None


def text_of_part(part: Any) -> str | None:
    if not isinstance(part, dict):
        return None
    text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return text if isinstance(text, str) else None


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def sent_cache_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Only `mode` and `ttl` are sent. `comparison_response_id` names a response of this store, which the provider does not know."""
    sent = ("mode", "ttl")
    options = {name: value for name, value in (parameters.get("prompt_cache_options") or {}).items() if name in sent}
    return {"prompt_cache_options": options} if options else {}
