"""Renderer 9: a request for `/responses`, as in renderer 5, with two differences.

Notes replace what the API or the model cannot take. If the client gave no `prompt_cache_key`, the request may have
one that the store chose. Renderers 3 and 5 list the parameters.

Shapes: `openai/types/responses/response_create_params.py` of the official SDK.
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
    """The body of the request. It asks for a streamed answer that the provider does not store.

    `item_ids`: the ids of `items`, if they are known. `missing`: abilities that the model lacks. `cache_key`: sent
    as `prompt_cache_key` if the client gave none. None: nothing is sent in its place.
    """
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
    """The indexes of the items that are not sent, each with the reason.

    Calls without an output, outputs without a call, and reasoning that is not encrypted are not sent.
    """
    others = non_messages(items)
    orphaned = orphans(items) if others else {}
    return orphaned | {
        index: "reasoning" for index, item in others if type_of(item) == "reasoning" and not _is_encrypted(item)
    }


def _is_encrypted(item: Item) -> bool:
    encrypted = item.get("encrypted_content")
    return isinstance(encrypted, str) and bool(encrypted)
