"""GET /v1/chat/completions/{id}/messages: the messages of a chat completion's request, rendered again from the log."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from msgspec.structs import replace
from pydantic import Field, ValidationInfo, field_validator
from starlette.responses import Response

from context.deleted_content import deleted_items
from context.rendering import renders_transcripts
from context.stored_items import stored_item
from context.transcripts.chat_messages import Json, messages_of
from context.transcripts.rendered import RenderedMessage, rendered_transcript
from domain.content_references import for_clients
from domain.errors import CompletionNotFound
from domain.events import ReplyRequested
from infrastructure.event_log.recorded import Recorded
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import OpenModel
from infrastructure.http.shapes import json_response
from infrastructure.ids import completion_id, response_id_of
from queries.paging import PageQuery, page_of
from queries.principal_log import PrincipalLog
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["chat"])


class StoredMessage(OpenModel):
    """A message as it was sent, with an id. If its content was a list of parts, `content_parts` has the parts, and `content` has their text."""

    id: str
    role: str
    content: str | None
    content_parts: list[Any] | None
    name: str | None
    refusal: str | None


class StoredMessageList(OpenModel):
    """A page of messages."""

    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessagesQuery(PageQuery):
    """The page. By default the first message comes first, as in the OpenAI API."""

    order: Literal["asc", "desc"] = Field("asc", description="`asc`: in the order of the request.")

    @field_validator("after", "before")
    @classmethod
    def _is_id(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if cursor is not None and response_id_of(cursor.rpartition("-")[0]) is None:
            message = f"`{info.field_name}` does not have the form of a message's id. Send an `id` from this list."
            raise ApiError(400, message, code="invalid_id", param=info.field_name)
        return cursor


@query_route(
    router,
    "/v1/chat/completions/{completion_id}/messages",
    MessagesQuery,
    answer=StoredMessageList,
    answer_headers=(),
)
async def list_completion_messages(context: QueryContext, response_id: str, query: MessagesQuery) -> Response:
    """A page of the messages of the request, including its system messages. Deleted messages and the model's answer are left out.

    For a request with `conversation`, only its new messages are listed. Always read from the log.
    """
    log = context.dependencies.log
    requested = await log.reply_requested(response_id)
    if requested is None or not isinstance(event := requested.event, ReplyRequested) or event.transcript is None:
        raise CompletionNotFound(completion_id(response_id))
    async with context.dependencies.connections.large_answer(context.principal.tenant):  # a transcript has up to 32 MB
        messages = await _messages(log, requested, event)
        ids = [f"{completion_id(response_id)}-{number}" for number in range(len(messages))]
        entries = [_entry(message_id, message.message) for message_id, message in zip(ids, messages, strict=True)]
        left_out = {message_id for message_id, message in zip(ids, messages, strict=True) if _is_deleted(message)}
        page = page_of(entries, ids, query, "a message of this chat completion", left_out=left_out)
    return json_response(page.body(is_backwards=query.is_backwards))


async def _messages(log: PrincipalLog, requested: Recorded, event: ReplyRequested) -> list[RenderedMessage]:
    """Deleted messages keep their places, because the id of a message contains its place."""
    if renders_transcripts(event.shown.renderer):
        return await rendered_transcript(log, requested, with_deleted=False)
    items = [stored_item(new) for new in event.input]
    deleted = await deleted_items(log, {item.item_id: item.copy_of for item in items}, [requested.conversation_id])
    messages: list[RenderedMessage] = []
    start = 0
    for plain in messages_of([item.item for item in items]):
        marked = [replace(item, is_deleted=item.item_id in deleted) for item in items[start : start + plain.count]]
        messages.append(RenderedMessage(plain.message, marked))
        start += plain.count
    return messages


def _is_deleted(message: RenderedMessage) -> bool:
    return any(item.is_deleted for item in message.items) or (message.is_blanked and not message.items)


def _entry(message_id: str, message: Json) -> bytes:
    message = for_clients(message)
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = (
        "".join(part["text"] for part in parts if isinstance(part.get("text"), str)) if parts is not None else content
    )
    shown = {"name": None, "refusal": None, **message, "id": message_id, "content": text, "content_parts": parts}
    return msgspec.json.encode(shown)
