"""POST /v1/responses/compact: summarizes an input or a chain of responses. Stores nothing."""

import base64
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from fastapi import APIRouter
from msgspec import Raw, Struct
from starlette.responses import Response

from commands.bodies import Body, Instructions, examples
from commands.command_route import CommandContext, command_route
from commands.other_apis import OTHER_NAMES
from commands.reply_input import take_input
from commands.reply_target import ReplyTarget, find_target
from commands.request_options import ImageOptions, PromptCacheOptions, ServiceTier, ShortText
from commands.request_reply import resolve_model
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse, Name
from commands.rolling_summary import COMPACTION
from commands.target_context import target_segment
from context.rendering.unsupported import first_unsupported
from context.selection import begins_turn
from context.summaries import PROMPT
from domain.items import Item, from_stored, output_item
from infrastructure.http import shapes
from infrastructure.http.body import validate
from infrastructure.http.errors import ApiError
from infrastructure.http.item_schemas import InputItemJson, ItemJson
from infrastructure.ids import RESPONSE, mint
from replies.response_object import usage_object
from replies.response_shape import UsageObject
from replies.summary_writer import (
    MAX_MODEL_CALLS,
    MIN_PORTION_TOKENS,
    SummaryInput,
    WrittenSummary,
    portion_tokens,
    write_summary,
)

router = APIRouter()

MAX_SUMMARY_TOKENS = 1_024
"""An eighth of the model's window is the limit if the eighth is less."""


class CompactResponse(Body):
    """`model` writes the summary; `instructions` are added to its prompt. The last five fields are sent to the provider with each
    request for the summary.
    """

    OTHER_NAMES: ClassVar = OTHER_NAMES
    model_config = examples({"model": "gpt-5-mini", "input": "Hello!"})

    model: Name
    input: str | list[InputItemJson] | None = None
    previous_response_id: str | None = None
    instructions: Instructions | None = None
    image: ImageOptions | None = None
    prompt_cache_key: ShortText | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: ShortText | None = None
    service_tier: ServiceTier | None = None

    def request(self) -> CreateResponse:
        """These fields, without `instructions`, as a request for a reply. Raises ApiError (400)."""
        fields = {name: getattr(self, name) for name in self.model_fields_set - {"instructions"}}
        return validate(CreateResponse, fields)


class CompactedResponse(Struct, frozen=True, kw_only=True, tag_field="object", tag="response.compaction"):
    """The user messages, and an item of type `compaction`."""

    id: str
    created_at: int
    output: list[ItemJson]
    usage: UsageObject


@command_route(
    router,
    "POST",
    "/v1/responses/compact",
    CompactResponse,
    max_bytes=MAX_REQUEST_BYTES,
    keep=lambda _, __: "inline",
    answer=CompactedResponse,
    answer_headers=(),
    errors=(404, 502, 504),
)
async def compact_response(context: CommandContext, body: CompactResponse) -> Response:
    """Answers with the user messages and an item of type `compaction`, which holds the summary of everything. Both can be sent as input."""
    await context.allowance.reply()
    request = body.request()
    request.check()
    parameters = request.parameters()
    if (refusal := first_unsupported(context.dependencies.models.renderer, parameters, ())) is not None:
        raise ApiError(400, refusal[1], code="unsupported_parameter", param=refusal[0])
    given = request.items()
    target = await find_target(context, request, writes=False)
    model = await resolve_model(context, request.model)
    taken = await take_input(context, target, given)
    items = [
        *await _earlier_items(context, target),
        *((new.item_id, from_stored(new.item)) for new in target.carried_items),
        *((entry.new.item_id, entry.item) for entry in taken.items),
    ]
    written = await _summarize(context, model, [item for _, item in items], body.instructions, parameters)
    encoded = base64.b64encode(msgspec.json.encode({"summary": written.text})).decode()
    user_messages = [output_item(item_id, item) for item_id, item in items if begins_turn(item)]
    output = [*user_messages, {"id": mint(COMPACTION), "type": "compaction", "encrypted_content": encoded}]
    answer = CompactedResponse(
        id=mint(RESPONSE),
        created_at=int(time.time()),
        output=[Raw(shapes.encode(item)) for item in output],
        usage=usage_object(written.usage),
    )
    return shapes.json_response(answer)


async def _summarize(
    context: CommandContext, model: str, items: list[Item], instructions: str | None, parameters: Mapping[str, Any]
) -> WrittenSummary:
    """Raises ModelFailed, and ApiError: 400 if the items are too long, 502 if the model did not summarize all of
    them.
    """
    provider, models = context.dependencies.provider, context.dependencies.models
    max_tokens = min(MAX_SUMMARY_TOKENS, models.window(model) // 8)
    prompt = PROMPT if instructions is None else f"{PROMPT}\n\n{instructions}"
    max_portion_tokens = await portion_tokens(models, model, prompt, max_tokens)
    summary_input = SummaryInput(models.encoding(model), max_portion_tokens)
    for item in items:
        if max_portion_tokens < MIN_PORTION_TOKENS or summary_input.is_full:
            raise _too_long(model)
        await summary_input.add(item)
    if len(summary_input.portions) > MAX_MODEL_CALLS:
        raise _too_long(model)
    written = await write_summary(
        provider,
        models,
        model,
        summary_input,
        prompt=prompt,
        previous="",
        max_tokens=max_tokens,
        spend=context.allowance.spend,
        parameters=parameters,
    )
    if written is None or written.covered < len(items):
        raise ApiError(502, "The model did not summarize the whole input.", code="model_error", retry=False)
    return written


def _too_long(model: str) -> ApiError:
    message = f"The items are longer than the model {model[:64]!r} can summarize in {MAX_MODEL_CALLS} calls."
    return ApiError(400, message, code="context_length_exceeded", param="input")


async def _earlier_items(context: CommandContext, target: ReplyTarget) -> list[tuple[str, Item]]:
    """Raises ApiError (400) if the items exceed MAX_REQUEST_BYTES."""
    if target.source is None:
        return []
    items: list[tuple[str, Item]] = []
    size = 0
    async for event in context.dependencies.contexts.path(await target_segment(context, target)):
        size += len(event.item)
        if size > MAX_REQUEST_BYTES:
            raise ApiError(
                400,
                "The earlier responses are too long to be summarized at once: compact their conversation instead.",
                code="context_length_exceeded",
                param="previous_response_id",
            )
        items.append((event.item_id, from_stored(event.item)))
    return items
