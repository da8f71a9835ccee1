"""POST /v1/responses/compact: a summary of an input, or of a chain of responses, to go on from with less. Nothing is kept."""

import base64
import time
from typing import Any

import msgspec
from fastapi import Response

from commands.bodies import Body, Instructions
from commands.command_context import CommandContext
from commands.command_route import command_route, command_router
from commands.reply_target import ReplyTarget, place_of
from commands.request_reply import model_of
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse, Name
from commands.summarize import COMPACTION, MAX_MODEL_CALLS, SMALLEST_PORTION, Portion, take_in, write
from context.selection import begins_turn
from context.summaries import PROMPT, portions
from context.tokens import count_off_loop
from domain.items import Item, from_stored, shaped
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError
from infrastructure.ids import RESPONSE, mint
from replies.response_object import usage_object

router = command_router()

MAX_SUMMARY_TOKENS = 1_024
"""Tokens; or an eighth of the model's window, where that is less."""


class CompactResponse(Body):
    model: Name
    input: str | list[Any] | None = None
    previous_response_id: str | None = None
    instructions: Instructions | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None


@command_route(router, "POST", "/v1/responses/compact", CompactResponse, largest=MAX_REQUEST_BYTES)
async def compact_response(context: CommandContext, body: CompactResponse) -> Response:
    """Answers with the users' messages and an item of type `compaction`, which stands for all, and can be sent as input."""
    request = CreateResponse(model=body.model, input=body.input, previous_response_id=body.previous_response_id)
    given = request.items()
    place = await place_of(context, request)
    name = await model_of(request, context)
    models = context.dependencies.models
    most = min(MAX_SUMMARY_TOKENS, models.window(name) // 8)
    prompt = PROMPT if body.instructions is None else f"{PROMPT}\n\n{body.instructions}"
    encoding = models.encoding(name)
    [prompt_tokens] = await count_off_loop([prompt], encoding)
    room = models.room(name, reserved=most) - prompt_tokens - most - SMALLEST_PORTION
    taken = Portion([], [], [], [])
    kept: list[Item] = []
    size = 0
    told = await _told_before(context, place)
    too_long = ApiError(
        400,
        f"The input is more than the model {name[:64]!r} can summarize at once.",
        code="context_length_exceeded",
        param="input",
    )
    for ident, item in [*told, *((new.item_id, from_stored(new.item)) for new in (*place.taken_up, *given))]:
        if room < SMALLEST_PORTION or size > room * MAX_MODEL_CALLS:
            raise too_long
        size += await take_in(taken, item, room, encoding)
        if begins_turn(item):
            kept.append(shaped(ident, item))
    if len(portions(taken.items, taken.sizes, room)) > MAX_MODEL_CALLS:
        raise too_long
    written = await write(context, name, prompt=prompt, summary="", taken=taken, room=room, most=most)
    if written is None or written.covered < len(taken.items):
        raise ApiError(502, "The model wrote no summary.", code="model_error", retry=False)
    carried = base64.b64encode(msgspec.json.encode({"summary": written.text})).decode()
    answer = {
        "id": mint(RESPONSE),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*kept, {"id": mint(COMPACTION), "type": "compaction", "encrypted_content": carried}],
        "usage": usage_object(written.usage),
    }
    return shapes.json_response(answer)


async def _told_before(context: CommandContext, place: ReplyTarget) -> list[tuple[str, Item]]:
    """All that the response to go on from was shown, or could have been, and what it answered; as long as that is no book."""
    if place.shown_of is None:
        return []
    path = context.dependencies.contexts.path(place.shown_of, place.version, None)
    told: list[tuple[str, Item]] = []
    size = 0
    async for event in path:
        size += len(event.item)
        if size > MAX_REQUEST_BYTES:
            raise ApiError(
                400,
                "The responses before this one are too long to be summarized at once: compact their conversation.",
                code="context_length_exceeded",
                param="previous_response_id",
            )
        told.append((event.item_id, from_stored(event.item)))
    return told
