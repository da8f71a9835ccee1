"""Items that a model is shown with a note in place of what it cannot take: their tokens, and what a request records of them."""

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
    """By index, the tokens of each (id, item) that is not sent as it is."""
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
    """These items, with the tokens that they have as they are sent to a model without the `missing` abilities."""
    others = _others(items)
    as_sent = await noted_tokens([(item.item_id, item.item) for _, item in others], renderer, missing, counts, encoding)
    if not as_sent:
        return items
    tokens = {others[index][0]: item_tokens for index, item_tokens in as_sent.items()}
    return [replace(item, tokens=tokens[index]) if index in tokens else item for index, item in enumerate(items)]


def noted_ranges(sent: Sequence[ContextItem], renderer: int, missing: Collection[str]) -> list[LeftOut]:
    """The sent items of which something is left out, as ranges: neighbours with the same reason form one range."""
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
    """(index, item) of all but the messages whose content is a string, which every model takes. A context may have thousands of these."""
    return [
        (index, item)
        for index, item in enumerate(items)
        if not isinstance(item.item.get("content"), str) or item.item.get("type", "message") != "message"
    ]
