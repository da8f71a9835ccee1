"""JSON in the answers of both APIs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Struct
from starlette.responses import Response

from infrastructure.ids import minted_seconds

JSON = "application/json"


def json_response(
    body: bytes | Mapping[str, object] | Struct, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Bytes are sent unchanged, so they must be JSON text."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(content, status, headers, JSON)


Seconds = Annotated[int, msgspec.Meta(description="Seconds since 1970, UTC.", examples=[1767225600])]
TitleBy = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["person", "model"]})]
ConversationId = Annotated[str, msgspec.Meta(examples=["conv_019af3c5d2e07c31a7b1f0c1d2e3f405"])]


class ForkedFrom(Struct, frozen=True):
    """Where a fork begins: after `item` of `conversation`, which was at `version`. `item` is null if the fork begins before the first item."""

    conversation: ConversationId
    item: str | None
    version: int


class Conversation(Struct, frozen=True, kw_only=True, tag_field="object", tag="conversation"):
    """A Conversation of the OpenAI API, with this store's own fields last. `version` counts its events and is its entity tag.

    `forked_from`: null if the conversation is no fork.
    """

    id: ConversationId
    created_at: Seconds
    metadata: Mapping[str, str]
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["active", "ended"]})]
    title: str | None
    title_by: TitleBy | None
    instructions: str | None
    archived: bool
    version: int
    forked_from: ForkedFrom | None


class ListedConversation(Conversation, frozen=True, kw_only=True, tag_field="object", tag="conversation"):
    """A Conversation with what lists of conversations show.

    `updated_at`: the time of its last event. `item_count`: how many of its own items are not deleted. `first_text`,
    `last_text`: the beginning of the first and of the last of its own messages on the active path that have text and
    are not deleted. `running_response`: the id of the newest response in progress.
    """

    owner: str
    updated_at: Seconds
    item_count: int
    first_text: str | None
    last_text: str | None
    running_response: str | None


class ConversationList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of conversations. `next_cursor`, `previous_cursor`: the values of `after` and `before` for the next and the previous page. Null if there is no such page."""

    data: list[ListedConversation]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_cursor: str | None
    previous_cursor: str | None


def conversation(
    conversation_id: str,
    *,
    metadata: Mapping[str, str],
    status: str,
    title: str | None,
    title_by: str | None,
    instructions: str | None,
    archived: bool,
    version: int,
    forked_from: ForkedFrom | None,
) -> Conversation:
    """`created_at` comes from the id."""
    return Conversation(
        id=conversation_id,
        created_at=minted_seconds(conversation_id),
        metadata=metadata,
        status=status,
        title=title,
        title_by=title_by,
        instructions=instructions,
        archived=archived,
        version=version,
        forked_from=forked_from,
    )


def item_list(items: Sequence[bytes], ids: Sequence[str], *, has_more: bool, **fields: object) -> bytes:
    """A page of items, as JSON text. `fields`: what else the list has."""
    page_fields = msgspec.json.encode(
        {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None, "has_more": has_more, **fields}
    )
    return b'{"object":"list","data":' + json_array(items) + b"," + page_fields[1:]


def json_array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
