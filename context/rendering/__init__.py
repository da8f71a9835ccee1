"""Renders a conversation as a provider request. Each renderer has a number, which is recorded with every request. Pure.

    1  renderer_1_chat         `/chat/completions`, the first version; not used any more
    2  renderer_2_chat         `/chat/completions`; the base of 4
    3  renderer_3_responses    `/responses`; the base of 5
    4  renderer_4_chat         `/chat/completions`
    5  renderer_5_responses    `/responses`

A renderer's output never changes: recorded requests must render to the same bytes, and golden tests check that. `unsendable` names
the items that a renderer leaves out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from context.rendering import (
    renderer_1_chat,
    renderer_2_chat,
    renderer_3_responses,
    renderer_4_chat,
    renderer_5_responses,
)
from domain.items import Item, type_of

CHAT = 4
RESPONSES = 5
"""The renderers of new requests."""


def uses_responses_api(renderer: int) -> bool:
    """Whether the renderer makes requests to `/responses`."""
    return renderer in (3, 5)


def render(
    renderer: int,
    *,
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
    item_ids: Sequence[str] = (),
) -> dict[str, Any]:
    """The body of the request, which always asks for a streamed answer. The `unsendable` items are left out. `item_ids`: the ids of `items`.

    Raises ValueError for an unknown renderer.
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
    raise ValueError(f"No renderer {renderer}")


def unsendable(renderer: int, items: Sequence[Item]) -> dict[int, str]:
    """Which of `items` are not sent, by index, and why: `orphaned_call`, `orphaned_output`, `not_expressible`, `reasoning`.

    `not_expressible`: the provider's API cannot take the item. These words are stored in events: do not change them.
    """
    match renderer:
        case 1:
            sent = ("message", "function_call", "function_call_output")
            return {index: "not_expressible" for index, item in enumerate(items) if type_of(item) not in sent}
        case 2 | 4:
            return renderer_2_chat.unsendable(items)
        case 3 | 5:
            return renderer_3_responses.unsendable(items)
    raise ValueError(f"No renderer {renderer}")


def request_sha256(body: Mapping[str, Any]) -> bytes:
    """The SHA-256 of a body as JSON text without spaces and with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
