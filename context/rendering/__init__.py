"""Renders a conversation as a request to a provider. Pure.

Every request records the number of its renderer.

    1  renderer_1_chat         `/chat/completions`, the first version
    2  renderer_2_chat         `/chat/completions`; the base of 4
    3  renderer_3_responses    `/responses`; the base of 5
    4  renderer_4_chat         `/chat/completions`; the base of 8
    5  renderer_5_responses    `/responses`; the base of 7 and 9
    6  renderer_6_transcript_chat        `/chat/completions`, for a Chat Completions request
    7  renderer_7_transcript_responses   `/responses`, for a Chat Completions request
    8  renderer_8_chat         `/chat/completions`, with notes in place of what cannot be sent
    9  renderer_9_responses    `/responses`, also with notes

A renderer's output never changes, because recorded requests must render to the same bytes.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from context.rendering import (
    renderer_1_chat,
    renderer_2_chat,
    renderer_3_responses,
    renderer_4_chat,
    renderer_5_responses,
    renderer_6_transcript_chat,
    renderer_7_transcript_responses,
    renderer_8_chat,
    renderer_9_responses,
)
from context.rendering.notes import Noted, needs, noted
from domain.items import Item, type_of

CHAT = 8
RESPONSES = 9
TRANSCRIPT_CHAT = 6
TRANSCRIPT_RESPONSES = 7
"""New requests use these four renderers."""


def uses_responses_api(renderer: int) -> bool:
    return renderer in (3, 5, 7, 9)


def renders_transcripts(renderer: int) -> bool:
    return renderer in (6, 7)


def render(
    renderer: int,
    *,
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
    item_ids: Sequence[str] = (),
    missing: Collection[str] = (),
    cache_key: str | None = None,
) -> dict[str, Any]:
    """The body of the request.

    `missing`, for renderers 8 and 9: abilities that the model lacks. `cache_key`, for renderer 9: sent if the
    parameters have no `prompt_cache_key`. Raises ValueError for a number that does not render items.
    """
    match renderer:
        case 1:
            return renderer_1_chat.render(model, instructions, items, parameters)
        case 2:
            return renderer_2_chat.render(model, instructions, summary, items, parameters)
        case 3:
            return renderer_3_responses.render(model, instructions, summary, items, parameters)
        case 4:
            return renderer_4_chat.render(model, instructions, summary, items, parameters)
        case 5:
            return renderer_5_responses.render(model, instructions, summary, items, parameters, item_ids=item_ids)
        case 8:
            return renderer_8_chat.render(model, instructions, summary, items, parameters, missing=missing)
        case 9:
            return renderer_9_responses.render(
                model,
                instructions,
                summary,
                items,
                parameters,
                item_ids=item_ids,
                missing=missing,
                cache_key=cache_key,
            )
    raise ValueError(f"No renderer {renderer} of items")


def render_transcript(
    renderer: int, *, model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Raises ValueError if the renderer does not render transcripts."""
    match renderer:
        case 6:
            return renderer_6_transcript_chat.render(model, messages, parameters)
        case 7:
            return renderer_7_transcript_responses.render(model, messages, parameters)
    raise ValueError(f"No renderer {renderer} of transcripts")


def unsendable(renderer: int, items: Sequence[Item]) -> dict[int, str]:
    """The reasons why items are not sent, by index.

    Events store the reasons `orphaned_call`, `orphaned_output`, `not_expressible` and `reasoning`, so do not change
    these words.
    """
    match renderer:
        case 1:
            sent = ("message", "function_call", "function_call_output")
            return {index: "not_expressible" for index, item in enumerate(items) if type_of(item) not in sent}
        case 2 | 4:
            return renderer_2_chat.unsendable(items)
        case 3 | 5:
            return renderer_3_responses.unsendable(items)
        case 8:
            return renderer_8_chat.unsendable(items)
        case 9:
            return renderer_9_responses.unsendable(items)
    raise ValueError(f"No renderer {renderer} of items")


def noted_item(renderer: int, item: Item, missing: Collection[str]) -> Noted | None:
    """What renderers 8 and 9 send in place of the item. None if the item is not changed."""
    return noted(item, missing, responses=renderer == 9) if renderer in (8, 9) else None


def needed_abilities(renderer: int, items: Iterable[Item]) -> frozenset[str]:
    """Renderers before 8 ignore abilities."""
    if renderer not in (8, 9):
        return frozenset()
    return frozenset().union(*(needs(item, responses=renderer == 9) for item in items))


def request_sha256(body: Mapping[str, Any]) -> bytes:
    """The SHA-256 of a body as JSON text without spaces and with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
