"""Token counts of items, kept so that nothing is counted twice: an item never changes, nor does its count in an encoding."""

from collections import OrderedDict
from collections.abc import Sequence

from context.rendering import counted_text, fixed_tokens
from context.tokens import count_off_loop
from domain.items import Item

MAX_COUNTS = 50_000
"""Some 20 MB."""


class ItemCounts:
    """What items, by their ids, add to a request: the newest `most` counts. One for a process."""

    def __init__(self, most: int = MAX_COUNTS) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def of(self, items: Sequence[tuple[str, Item]], encoding: str) -> list[int]:
        """The tokens of each (id, item), in order, as this encoding counts them."""
        known = {ident: self._kept[ident, encoding] for ident, _ in items if (ident, encoding) in self._kept}
        missing = [(ident, item) for ident, item in items if ident not in known]
        counts = await count_off_loop([counted_text(item) for _, item in missing], encoding)
        # What was known before may have been thrown away for others meanwhile.
        known |= {ident: count + fixed_tokens(item) for (ident, item), count in zip(missing, counts, strict=True)}
        found = [known[ident] for ident, _ in items]
        for (ident, _), tokens in zip(items, found, strict=True):
            self._kept[ident, encoding] = tokens
            self._kept.move_to_end((ident, encoding))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found
