"""POST /v1/responses: asks a model for a reply, in a conversation or in an unlisted one of the reply's own."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import Field, StringConstraints

from commands.bodies import Body, Instructions, Metadata, new_items
from commands.carry_out import Caller
from commands.recorded_reply import Kept, RecordedReply
from commands.reply import Reply
from commands.verb import verb
from domain.commands import NewItem, RequestReply, StartConversation
from domain.errors import ConversationNotFound
from domain.events import InputItem
from domain.items import as_output, from_stored
from infrastructure.context import Asked
from infrastructure.event_log.log import utc_now
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.http.paths import checked
from infrastructure.ids import CONVERSATION, RESPONSE, mint

MOST_INPUT_ITEMS = 200
LARGEST_REQUEST = 4 * 1024 * 1024
"""Bytes. A response's document in the views holds its input, and may not pass 16 MB."""

_SSE = "text/event-stream; charset=utf-8"
_KEPT = ("instructions", "temperature", "top_p", "max_output_tokens", "metadata", "truncation")
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "previous_response_id": (),
    "store": (True,),
    "text": ({"format": {"type": "text"}}, {}),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "context_management": ([],),
    "reasoning": ({},),
    "prompt": (),
    "max_tool_calls": (),
    "top_logprobs": (0,),
}
"""Parameters that this store does not act on yet, and the values of each that ask for nothing; null always does."""


class ConversationRef(Body):
    id: str


class CreateResponse(Body):
    """The request of the Responses API. What can not be honoured yet is refused by name, not ignored."""

    input: Annotated[str | list[Any], Field(description="Text, or items of the Responses API.")] | None = None
    conversation: str | ConversationRef | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    instructions: Instructions | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None

    background: Any = None
    previous_response_id: Any = None
    store: Any = None
    text: Any = None
    tools: Any = None
    tool_choice: Any = None
    context_management: Any = None
    reasoning: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    top_logprobs: Any = None

    include: list[str] | None = None
    parallel_tool_calls: bool | None = None
    stream_options: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    user: str | None = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    def parameters(self) -> dict[str, Any]:
        """What the caller set of what a reply goes by."""
        return {name: value for name in _KEPT if (value := getattr(self, name)) is not None}


router, serves = verb("POST", "/v1/responses", CreateResponse, largest=LARGEST_REQUEST)


@serves
async def create_response(called: Caller, body: CreateResponse) -> Response:
    """Answers with the Response, or with its stream of events."""
    _refuse_what_is_not_honoured(body)
    reply = await _request_reply(body, called)
    if body.stream:
        headers = {**await reply.begun(), "cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(reply.stream(), media_type=_SSE, headers=headers)
    answer, headers = await reply.whole()
    return shapes.json_response(answer, headers=headers)


async def _request_reply(body: CreateResponse, called: Caller) -> Reply | RecordedReply:
    """Puts on record what is asked and what the model is shown; nothing is on record when any of it is refused."""
    wiring = called.wiring
    if called.idempotency is not None:
        first = await wiring.reader.first_answer(
            called.principal.tenant, called.idempotency, since=utc_now() - wiring.keep_keys
        )
        if first is not None:
            return RecordedReply(wiring.reader, msgspec.json.decode(first.answer, type=Kept))
    given = _input(body)
    conversation_id = body.conversation_id
    version = 0
    if conversation_id is not None:
        checked(conversation_id, CONVERSATION, "conversation")
        head = await wiring.reader.head(conversation_id)
        if head is None or head.deleted or head.tenant != called.principal.tenant:
            raise ConversationNotFound(conversation_id)
        version = head.version
    model = body.model or await wiring.model.default_model(called.principal.tenant)
    asked = Asked(
        model=model,
        parameters=body.parameters(),
        input=[(new.item_id, from_stored(new.item)) for new in given],
    )
    context = await wiring.contexts.assemble(called.principal.tenant, conversation_id, version, asked)
    start = None
    if conversation_id is None:
        conversation_id = mint(CONVERSATION)
        start = StartConversation(
            conversation_id=conversation_id,
            tenant=called.principal.tenant,
            owner=called.principal.subject,
            listed=False,
        )
    command = RequestReply(
        response_id=mint(RESPONSE),
        model=model,
        parameters=msgspec.json.encode(asked.parameters),
        input=tuple(InputItem(item_id=new.item_id, item=new.item) for new in given),
        shown=context.shown,
        start=start,
    )
    kept = msgspec.json.encode(Kept(conversation_id, command.response_id))
    requested = await called.append(conversation_id, command, lambda _: kept)
    if requested.replayed:
        assert requested.answer is not None
        return RecordedReply(wiring.reader, msgspec.json.decode(requested.answer, type=Kept))
    return Reply(called, conversation_id, command, context.body, requested)


def _input(body: CreateResponse) -> tuple[NewItem, ...]:
    if isinstance(body.input, str):
        return new_items([{"type": "message", "role": "user", "content": body.input}], "input")
    if body.input is None and body.conversation is None:
        raise ApiError(400, "`input` is missing.", code="missing_required_parameter", param="input")
    given = body.input or []
    if len(given) > MOST_INPUT_ITEMS:
        raise ApiError(400, f"`input` has more than {MOST_INPUT_ITEMS} items.", code="invalid_value", param="input")
    if not given and body.conversation is None:
        raise ApiError(400, "`input` is empty.", code="invalid_value", param="input")
    items = new_items(given, "input")
    # As they are given back: that may be longer than they came.
    if sum(len(as_output(new.item_id, new.item)) for new in items) > LARGEST_REQUEST:
        raise ApiError(413, f"`input` is larger than {LARGEST_REQUEST} bytes.", code="request_too_large", param="input")
    return items


def _refuse_what_is_not_honoured(body: CreateResponse) -> None:
    if body.conversation is not None and body.previous_response_id is not None:
        raise ApiError(
            400,
            "`previous_response_id` and `conversation` exclude each other.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )
    for name, harmless in _HARMLESS.items():
        value = getattr(body, name)
        if value is not None and value not in harmless:
            raise ApiError(
                400, f"`{name}` with this value is not supported here.", code="unsupported_parameter", param=name
            )
