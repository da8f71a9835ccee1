"""Items that are sent in a changed form because the model cannot take a part of them: their tokens, and their record.

For example, a note takes the place of an image. The record of the request names these items.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

from context.item_counts import ItemCounts
from context.rendering import noted_item
from context.rendering.notes import Noted
from context.selection import ContextItem, not_plain
from domain.events import LeftOut
from domain.items import Item


class AsSent(Struct, frozen=True):
    """Items, with the tokens that they have in a request. `reasons`: by the id of each item in a changed form, why a part of it is left out; None if nothing is left out."""

    items: Sequence[ContextItem]
    reasons: Mapping[str, str | None]


async def noted_tokens(
    items: Sequence[tuple[str, Item]], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> dict[int, int]:
    """The tokens of each item that is sent in a changed form, by its index in `items`. `items`: (id, item) of each."""
    noted = {
        index: (item_id, form)
        for index, (item_id, item) in enumerate(items)
        if (form := noted_item(renderer, item, missing)) is not None
    }
    return await _count(noted, missing, counts, encoding)


async def as_sent(
    items: Sequence[ContextItem], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> AsSent:
    """These items as they are sent to a model without the `missing` abilities."""
    noted = {
        index: (item.item_id, form)
        for index, item in _to_check(items)
        if (form := noted_item(renderer, item.item, missing)) is not None
    }
    if not noted:
        return AsSent(items, {})
    tokens = await _count(noted, missing, counts, encoding)
    return AsSent(
        [replace(item, tokens=tokens[index]) if index in tokens else item for index, item in enumerate(items)],
        {item_id: form.reason for item_id, form in noted.values()},
    )


def noted_ranges(sent: Sequence[ContextItem], reasons: Mapping[str, str | None]) -> list[LeftOut]:
    """The sent items in which something is left out, as ranges: neighbours with the same reason form one range.

    `reasons`: as in AsSent.
    """
    ranges: list[LeftOut] = []
    for reason, group in groupby(sent if reasons else (), key=lambda item: reasons.get(item.item_id)):
        if reason is not None:
            ids = [item.item_id for item in group]
            ranges.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return ranges


async def _count(
    noted: Mapping[int, tuple[str, Noted]], missing: Collection[str], counts: ItemCounts, encoding: str
) -> dict[int, int]:
    """The tokens of items in the form in which they are sent. `noted`: (the item's id, this form), by the item's index."""
    if not noted:
        return {}
    lacking = ",".join(sorted(missing))
    forms = [(f"{item_id} {lacking}", form.item) for item_id, form in noted.values()]
    return dict(zip(noted, await counts.of(forms, encoding), strict=True))


def _to_check(items: Sequence[ContextItem]) -> list[tuple[int, ContextItem]]:
    """(index, item) of each item that may have to be changed: all but plain messages and messages whose content is a string.

    Every model takes such messages, and a context may have thousands of them.
    """
    return [
        (index, other)
        for index, other in not_plain(items)
        if not isinstance(other.item.get("content"), str) or other.item.get("type", "message") != "message"
    ]
