"""Stored chat completions: changes their metadata, and deletes them."""

import msgspec
from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from commands.bodies import Body, Metadata, examples
from commands.command_route import CommandContext, command_route
from commands.delete_reply import delete_reply
from domain.commands import DescribeReply
from domain.errors import CompletionNotFound, ConversationNotFound, ResponseNotFound
from domain.events import ReplyRequested
from infrastructure.http import shapes
from infrastructure.http.headers import command_headers
from infrastructure.ids import completion_id
from replies.chat_completion import chat_completion
from replies.chat_shape import ChatCompletion
from replies.record import read_record

router = APIRouter()


class UpdateCompletion(Body):
    """`metadata` replaces all pairs; null clears it."""

    model_config = examples({"metadata": {"customer": "4711"}})

    metadata: Metadata | None


@command_route(
    router,
    "POST",
    "/v1/chat/completions/{completion_id}",
    UpdateCompletion,
    keeps_answer=False,
    answer=ChatCompletion,
)
async def update_completion(context: CommandContext, response_id: str, body: UpdateCompletion) -> Response:
    """Changes the metadata, which the Response shows too. Answers with the chat completion."""
    try:
        conversation_id = await _conversation_of(context, response_id)
        command = DescribeReply(response_id=response_id, metadata=body.metadata or {})
        # The stored answer of an idempotency key must not contain the model's text.
        appended = await context.append(conversation_id, command, lambda _: b"{}")
        record = await read_record(context.dependencies.reader, conversation_id, response_id)
    except (ConversationNotFound, ResponseNotFound) as error:
        raise CompletionNotFound(completion_id(response_id)) from error
    completion = chat_completion(msgspec.json.decode(record.response()))
    return shapes.json_response(completion, headers=command_headers(appended))


class CompletionDeleted(Struct, frozen=True, kw_only=True, tag_field="object", tag="chat.completion.deleted"):
    """The receipt of a deletion."""

    id: str
    deleted: bool


@command_route(router, "DELETE", "/v1/chat/completions/{completion_id}", answer=CompletionDeleted)
async def delete_completion(context: CommandContext, response_id: str) -> Response:
    """Deletes the chat completion, with the same effect as `DELETE /v1/responses/{response_id}`. Answers with a receipt."""
    receipt = shapes.encode(CompletionDeleted(id=completion_id(response_id), deleted=True))
    try:
        await _conversation_of(context, response_id)
        return await delete_reply(context, response_id, receipt)
    except ResponseNotFound as error:
        raise CompletionNotFound(completion_id(response_id)) from error


async def _conversation_of(context: CommandContext, response_id: str) -> str:
    """The completion's conversation, also if the completion is deleted. Raises ResponseNotFound."""
    reader = context.dependencies.reader
    conversation_id = await reader.conversation_of(response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    rows = await reader.items(conversation_id, [response_id])
    requested = rows[0].event if rows else None
    if not isinstance(requested, ReplyRequested) or requested.transcript is None:
        raise ResponseNotFound(response_id)
    return conversation_id
