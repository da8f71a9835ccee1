"""GET /v1/responses/{id}/context: what was sent to the model for a reply, rendered again from the log."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.responses import Response

from context.rendering import renders_transcripts
from context.rerender import Rerendered, ShownItem
from domain.errors import ResponseNotFound
from domain.events import ReplyQueued, ReplyRequested, SharedPrefix
from domain.items import encodable_output_item, output_item
from infrastructure.event_log.recorded import Recorded
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from queries.blanking import blanked_item_json, requested_even_if_deleted
from queries.context import LeftOutItems, SentItem, SentSummary, left_out_shape, summary_shape
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["responses"])


class SharedPromptPrefix(Struct, frozen=True, kw_only=True):
    """How many tokens and messages at the beginning of the request a provider's prompt cache may have.

    `reason`: why the prefix is shorter than the last request of the same model, or why there was no such request, in the
    words of `prompt_cache_diagnostics` in the official API. Null if the prefix is the whole last request.
    """

    tokens: int
    messages: int
    reason: str | None


class ResponseContext(Struct, frozen=True, kw_only=True, tag_field="object", tag="response.context"):
    """What was sent to a model for a reply. `request`: the body of the request, rendered again from the log.

    `items`: the items that were sent. For a chat completion they are the items that its messages stand for. Its
    leading system messages, and messages that do not stand for an item, are only in `request`.

    `shared_prefix`: how much of the request's beginning was also sent with the last request of the same model in the
    conversation. Null for a chat completion, and for requests from before the store recorded it.

    `blanked`: the names of the fields whose content is left out, because it is deleted now. If `request` is among
    them, `request_sha256_matches` is null.
    """

    version: int
    model: str
    budget: int
    tokens: int
    items: list[SentItem]
    left_out: list[LeftOutItems]
    summary: SentSummary | None
    shared_prefix: SharedPromptPrefix | None
    request: Mapping[str, Any]
    request_sha256_matches: bool | None
    blanked: list[str] | UnsetType = UNSET


@query_route(router, "/v1/responses/{response_id}/context", answer=ResponseContext, answer_headers=())
async def get_response_context(context: QueryContext, response_id: str) -> Response:
    """The `request` as it was sent, and whether its SHA-256 is the recorded one. Always read from the log.

    To see content that is deleted now, a caller needs the scope `audit`. To see deleted responses, they also need a login.
    """
    sees_deleted = context.principal.may("audit")
    finds_deleted = context.principal.finds_deleted
    log = context.dependencies.log
    requested = await (
        requested_even_if_deleted(log, response_id) if finds_deleted else log.reply_requested(response_id)
    )
    if requested is not None and isinstance(requested.event, ReplyQueued):
        message = f"Response {response_id} has no context: it waits for its turn, or it ended before its turn came."
        raise ApiError(404, message, code="context_not_assembled")
    if requested is None or not isinstance(request := requested.event, ReplyRequested):
        raise ResponseNotFound(response_id)
    if not renders_transcripts(request.shown.renderer):
        return json_response(await _body(context, requested, request, sees_deleted=sees_deleted))
    async with context.dependencies.connections.large_answer(context.principal.tenant):  # a transcript has up to 32 MB
        return json_response(await _body(context, requested, request, sees_deleted=sees_deleted))


async def _body(
    context: QueryContext, requested: Recorded, request: ReplyRequested, *, sees_deleted: bool
) -> ResponseContext:
    rerendered = await context.dependencies.contexts.rerender(
        requested.conversation_id, requested, with_deleted=sees_deleted
    )
    return ResponseContext(
        version=request.shown.version,
        model=request.model,
        budget=request.shown.budget,
        tokens=request.shown.tokens,
        items=[SentItem(item.item_id, item.tokens, _item(item)) for item in rerendered.items],
        left_out=left_out_shape(request.shown.left_out),
        summary=summary_shape(rerendered.summary, rerendered.summary_tokens),
        shared_prefix=_shared_prefix(request.shown.shared_prefix),
        request=rerendered.body,
        request_sha256_matches=rerendered.matches,
        blanked=_blanked_names(rerendered) or UNSET,
    )


def _shared_prefix(shared: SharedPrefix | None) -> SharedPromptPrefix | None:
    if shared is None:
        return None
    return SharedPromptPrefix(tokens=shared.tokens, messages=shared.messages, reason=shared.reason)


def _item(shown: ShownItem) -> Any:
    if shown.is_blanked:
        return Raw(blanked_item_json(output_item(shown.item_id, shown.item)))
    return encodable_output_item(shown.item_id, shown.item)


def _blanked_names(rerendered: Rerendered) -> list[str]:
    names = [f"items[{index}].item" for index, item in enumerate(rerendered.items) if item.is_blanked]
    if rerendered.summary_is_blanked:
        names.append("summary.text")
    return names if rerendered.matches is not None else [*names, "request"]
