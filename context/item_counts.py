"""Keeps the token counts of the items used last. An item never changes."""

from collections import OrderedDict
from collections.abc import Sequence

from context.item_tokens import counted_text, fixed_tokens
from context.tokens import count_off_loop
from domain.items import Item

MAX_COUNTS = 50_000
"""So many counts take about 20 MB."""


class ItemCounts:
    def __init__(self, max_counts: int = MAX_COUNTS) -> None:
        self._max_counts = max_counts
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def of(self, items: Sequence[tuple[str, Item]], encoding: str) -> list[int]:
        counts = {
            item_id: self._counts[item_id, encoding] for item_id, _ in items if (item_id, encoding) in self._counts
        }
        missing = [(item_id, item) for item_id, item in items if item_id not in counts]
        text_tokens = await count_off_loop([counted_text(item) for _, item in missing], encoding)
        # While texts were counted, other calls may have removed counts. So all counts are stored again.
        for (item_id, item), count in zip(missing, text_tokens, strict=True):
            counts[item_id] = count + fixed_tokens(item)
        tokens = [counts[item_id] for item_id, _ in items]
        for (item_id, _), count in zip(items, tokens, strict=True):
            self._counts[item_id, encoding] = count
            self._counts.move_to_end((item_id, encoding))
        while len(self._counts) > self._max_counts:
            self._counts.popitem(last=False)
        return tokens
