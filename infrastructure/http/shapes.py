"""JSON that both APIs answer with: a conversation, and lists that are joined from JSON texts."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from infrastructure.ids import minted_seconds

JSON = "application/json"


def json_response(
    body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a JSON body. Bytes are sent unchanged: they must be JSON text."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(content, status, headers, JSON)


def conversation(
    conversation_id: str,
    *,
    metadata: Mapping[str, str],
    status: str,
    title: str | None,
    instructions: str | None,
    version: int,
) -> dict[str, Any]:
    """A Conversation of the OpenAI API, with this store's own fields last. `created_at` (seconds) comes from the id."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": minted_seconds(conversation_id),
        "metadata": metadata,
        "status": status,
        "title": title,
        "instructions": instructions,
        "version": version,
    }


def item_list(items: Sequence[bytes], ids: Sequence[str], *, has_more: bool) -> bytes:
    """An ItemList: `items` are the JSON texts of one page, `ids` their ids."""
    page_fields = msgspec.json.encode(
        {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None, "has_more": has_more}
    )
    return b'{"object":"list","data":' + json_array(items) + b"," + page_fields[1:]


def json_array(items: Iterable[bytes]) -> bytes:
    """A JSON array of JSON texts."""
    return b"[" + b",".join(items) + b"]"


def encode(value: object) -> bytes:
    """A value as JSON text."""
    return msgspec.json.encode(value)


def sha256(body: bytes) -> bytes:
    """The SHA-256 of a body."""
    return hashlib.sha256(body).digest()
