"""Renderer 8: as renderer 4, but notes replace what the API or this model cannot take.

Shapes: `openai/types/chat/completion_create_params.py` of the official SDK.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from context.rendering import renderer_4_chat
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
    missing: Collection[str],
) -> dict[str, Any]:
    left_out = unsendable(items)
    sent = [item for index, item in enumerate(items) if index not in left_out]
    with_notes = [n.item if (n := noted(item, missing, responses=False)) else item for item in sent]
    return renderer_4_chat.render(model, instructions, summary, with_notes, parameters)


def unsendable(items: Sequence[Item]) -> dict[int, str]:
    others = non_messages(items)
    orphaned = orphans(items) if others else {}
    return orphaned | {index: "reasoning" for index, item in others if type_of(item) == "reasoning"}
