"""Renderer 9 is like renderer 5, but notes replace what the API or the model cannot take.

The store may choose a `prompt_cache_key`. Shapes: `openai/types/responses/response_create_params.py` of the official
SDK.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from context.rendering import renderer_5_responses
from context.rendering.notes import noted
from context.rendering.orphans import non_messages, orphans
from domain.items import Item, type_of


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
    *,
    item_ids: Sequence[str] = (),
    missing: Collection[str],
    cache_key: str | None,
) -> dict[str, Any]:
    left_out = unsendable(items)
    sent_indexes = [index for index in range(len(items)) if index not in left_out]
    with_notes = [
        n.item if (n := noted(items[index], missing, responses=True)) else items[index] for index in sent_indexes
    ]
    sent_ids = [item_ids[index] for index in sent_indexes] if item_ids else ()
    body = renderer_5_responses.render(model, instructions, summary, with_notes, parameters, item_ids=sent_ids)
    if cache_key is not None:
        body.setdefault("prompt_cache_key", cache_key)
    return body


def unsendable(items: Sequence[Item]) -> dict[int, str]:
    others = non_messages(items)
    orphaned = orphans(items) if others else {}
    return orphaned | {
        index: "reasoning" for index, item in others if type_of(item) == "reasoning" and not _is_encrypted(item)
    }


def _is_encrypted(item: Item) -> bool:
    encrypted = item.get("encrypted_content")
    return isinstance(encrypted, str) and bool(encrypted)
