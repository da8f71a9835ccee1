"""Counts and records items that are sent in a changed form. For example, a note takes the place of an image."""

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
    """Items, with the tokens of the form in which they are sent.

    `reasons`: by the id of each changed item, the reason why a part is left out, or None if nothing is left out.
    """

    items: Sequence[ContextItem]
    reasons: Mapping[str, str | None]


async def noted_tokens(
    items: Sequence[tuple[str, Item]], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> dict[int, int]:
    """By index, the tokens of each item that is sent in a changed form."""
    noted = {
        index: (item_id, form)
        for index, (item_id, item) in enumerate(items)
        if (form := noted_item(renderer, item, missing)) is not None
    }
    return await _count(noted, missing, counts, encoding)


async def as_sent(
    items: Sequence[ContextItem], renderer: int, missing: Collection[str], counts: ItemCounts, encoding: str
) -> AsSent:
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
    ranges: list[LeftOut] = []
    for reason, group in groupby(sent if reasons else (), key=lambda item: reasons.get(item.item_id)):
        if reason is not None:
            ids = [item.item_id for item in group]
            ranges.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return ranges


async def _count(
    noted: Mapping[int, tuple[str, Noted]], missing: Collection[str], counts: ItemCounts, encoding: str
) -> dict[int, int]:
    if not noted:
        return {}
    lacking = ",".join(sorted(missing))
    forms = [(f"{item_id} {lacking}", form.item) for item_id, form in noted.values()]
    return dict(zip(noted, await counts.of(forms, encoding), strict=True))


def _to_check(items: Sequence[ContextItem]) -> list[tuple[int, ContextItem]]:
    """Leaves out messages with plain text, because every model takes these, and a context may have thousands."""
    return [
        (index, other)
        for index, other in not_plain(items)
        if not isinstance(other.item.get("content"), str) or other.item.get("type", "message") != "message"
    ]
