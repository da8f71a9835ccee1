"""What a ReplyRequested event records of a selection. Ranges keep the event small. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from context.selection import ContextItem, Selection
from domain.events import LeftOut, ShownRange


def shown_ranges(selection: Selection) -> tuple[ShownRange, ...]:
    """A range must not span an item that was found deleted, because the path at the recorded version still has that item.

    `count` includes items that cannot be sent; `tokens` does not.
    """
    sent_ids = {item.item_id for item in selection.sent}
    ranges = [_range([pin], sent_ids) for pin in selection.pins]
    start = 0
    for end, item in enumerate(selection.window, 1):
        if item.before_gap or end == len(selection.window):
            ranges.append(_range(selection.window[start:end], sent_ids))
            start = end
    return tuple(ranges)


def _range(items: Sequence[ContextItem], sent_ids: set[str]) -> ShownRange:
    tokens = sum(item.tokens for item in items if item.item_id in sent_ids)
    return ShownRange(first=items[0].item_id, last=items[-1].item_id, count=len(items), tokens=tokens)


def recorded_left_out(left_out: Sequence[LeftOut], max_ranges: int = 16) -> tuple[LeftOut, ...]:
    """Merges ranges with the same reason if there are more than `max_ranges`."""
    if len(left_out) <= max_ranges:
        return tuple(left_out)
    merged: dict[str, LeftOut] = {}
    for left_out_range in left_out:
        earlier = merged.get(left_out_range.reason)
        if earlier is None:
            merged[left_out_range.reason] = left_out_range
        else:
            unknown = earlier.count is None or left_out_range.count is None
            count = None if unknown else (earlier.count or 0) + (left_out_range.count or 0)
            merged[left_out_range.reason] = replace(earlier, last=left_out_range.last, count=count)
    return tuple(merged.values())
