"""Chat Completions: create."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from commands.chat_body import MAX_CHAT_BYTES, CreateChatCompletion, is_stored
from commands.command_route import APPEND_HEADERS, REQUEST_HEADERS, CommandContext, command_route
from commands.request_chat_reply import request_chat_reply
from commands.request_reply import request_reply
from commands.start_reply import stream_of
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.event_streams import EventStream
from replies.chat_chunks import chat_chunks
from replies.chat_completion import chat_completion
from replies.chat_shape import ChatCompletion, ChatCompletionChunk
from replies.client_disconnect import response_for_client
from replies.recorded_reply import RecordedReply

router = APIRouter()


@command_route(
    router,
    "POST",
    "/v1/chat/completions",
    CreateChatCompletion,
    scope="reply",
    max_bytes=MAX_CHAT_BYTES,
    keeps_answer=False,
    keep=lambda dependencies, body: "stored" if is_stored(body, dependencies.chat_completions_store) else "request",
    answer=ChatCompletion,
    events=ChatCompletionChunk,
    request_headers={
        **REQUEST_HEADERS,
        "X-Conversation-Id": "The conversation's id, or a name that the client gives it. If the store has a conversation with this id or name, it uses this conversation, even if `messages` continue another one.",
    },
    answer_headers=(*APPEND_HEADERS, "X-Conversation-Id", "X-Response-Id", "X-Context-Left-Out"),
    errors=(404, 502, 504),
)
async def create_chat_completion(context: CommandContext, body: CreateChatCompletion) -> Response:
    """Answers the messages. Exactly these are sent to the model. If they are to be stored, the store finds the conversation that they continue, and stores each message once.

    With `stream`, the answer is a stream of chunks. With `conversation`, `messages` are only the new ones, and the store adds the history.
    """
    body.check(context.dependencies.models.transcript_renderer, context.dependencies.shared_contexts.known_messages)
    stored = is_stored(body.as_sent, context.dependencies.chat_completions_store)
    if body.conversation_id is None:
        reply = await request_chat_reply(context, body, stored=stored)
    elif "x-conversation-id" in context.headers:
        message = "`X-Conversation-Id` and `conversation` both name a conversation. Send one of them."
        raise ApiError(400, message, code="mutually_exclusive_parameters", param="X-Conversation-Id")
    else:
        reply = await request_reply(context, body.as_response_request(stored=stored))
    keep_running = context.idempotency is not None and stored
    ids = {"x-response-id": reply.response_id}
    if reply.conversation_id is not None:
        ids["x-conversation-id"] = reply.conversation_id
    if body.stream:
        events, headers = await stream_of(reply, keep_running=keep_running)
        chunks = chat_chunks(events, include_usage=body.includes_usage)
        return EventStream(chunks, {**headers, **ids}, context.dependencies.comment_seconds)
    if isinstance(reply, RecordedReply):
        response, headers = await reply.response()
    else:
        response, headers = await response_for_client(reply, context.disconnected, keep_running=keep_running)
    completion = chat_completion(msgspec.json.decode(response))
    return shapes.json_response(completion, headers={**headers, **ids})
