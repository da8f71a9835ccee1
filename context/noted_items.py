"""Items that are sent in a changed form because the model cannot take a part of them: their tokens, and their record.

For example, a note takes the place of an image. The record of the request names these items.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

from msgspec.structs import replace

from context.item_counts import ItemCounts
from context.rendering import noted_item
from context.selection import ContextItem
from domain.events import LeftOut
from domain.items import Item


async def noted_tokens(
    items: Sequence[tuple[str, Item]], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> dict[int, int]:
    """The tokens of each item that is sent in a changed form, by its index in `items`. `items`: (id, item) of each."""
    noted = {
        index: (f"{item_id} {','.join(sorted(missing))}", as_sent.item)
        for index, (item_id, item) in enumerate(items)
        if (as_sent := noted_item(renderer, item, missing)) is not None
    }
    tokens = await counts.of(list(noted.values()), encoding) if noted else []
    return dict(zip(noted, tokens, strict=True))


async def with_noted_tokens(
    items: Sequence[ContextItem], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> Sequence[ContextItem]:
    """These items, with the tokens that they have in a request to a model without the `missing` abilities."""
    others = _others(items)
    as_sent = await noted_tokens([(item.item_id, item.item) for _, item in others], renderer, missing, counts, encoding)
    if not as_sent:
        return items
    tokens = {others[index][0]: item_tokens for index, item_tokens in as_sent.items()}
    return [replace(item, tokens=tokens[index]) if index in tokens else item for index, item in enumerate(items)]


def noted_ranges(sent: Sequence[ContextItem], renderer: int, missing: Collection[str]) -> list[LeftOut]:
    """The sent items in which something is left out, as ranges: neighbours with the same reason form one range."""
    reasons = {
        index: noted.reason
        for index, item in _others(sent)
        if (noted := noted_item(renderer, item.item, missing)) is not None
    }
    ranges: list[LeftOut] = []
    for reason, group in groupby(range(len(sent)) if reasons else (), key=reasons.get):
        if reason is not None:
            ids = [sent[index].item_id for index in group]
            ranges.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return ranges


def _others(items: Sequence[ContextItem]) -> list[tuple[int, ContextItem]]:
    """(index, item) of each item that may have to be changed: all except messages whose content is a string.

    Every model takes such messages, and a context may have thousands of them.
    """
    return [
        (index, item)
        for index, item in enumerate(items)
        if not isinstance(item.item.get("content"), str) or item.item.get("type", "message") != "message"
    ]
