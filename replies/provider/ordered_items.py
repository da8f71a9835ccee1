"""Puts output items in sequence: a provider may stream several at the same time, but their parts are passed on item by item."""

from collections.abc import Hashable

from msgspec import Struct

from domain.items import Item
from replies.provider.failures import answer_too_long
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart

MAX_ANSWER_CHARACTERS = 1_000_000
"""Text, names and call ids of all items. No useful answer is longer."""


class _OpenItem(Struct):
    """`item` is None until its type is known. `text`: what is not in a part yet. `started`: its ItemStarted was made."""

    item: Item | None
    text: list[str] = []
    fields: Item = {}
    started: bool = False
    ended: bool = False


class OrderedItems:
    """Makes the parts of the oldest item that has not ended. The text of the others waits until it is their turn.

    Callers choose the keys. `take_parts` returns the parts made since the last call.
    """

    def __init__(self) -> None:
        self._items: dict[Hashable, _OpenItem] = {}
        self._parts: list[StreamPart] = []
        self._characters = 0

    @property
    def characters(self) -> int:
        """The length of the answer so far: text, names and call ids."""
        return self._characters

    def open_keys(self) -> list[Hashable]:
        """The items that have not ended, in the order they started."""
        return [key for key, open_item in self._items.items() if not open_item.ended]

    def start(self, key: Hashable, item: Item | None = None) -> None:
        """Starts an item. `item` may come with a later call, when its type is known."""
        open_item = self._items.setdefault(key, _OpenItem(None))
        open_item.item = open_item.item or item
        self.add_length(len(str(item)))
        self._make_parts()

    def has_type(self, key: Hashable) -> bool:
        return self._items[key].item is not None

    def add_text(self, key: Hashable, text: str) -> None:
        """Adds text to an item. Raises ModelFailed, as `add_length` does."""
        self.add_length(len(text))
        text = text.replace("\0", "")  # Postgres cannot store NUL
        if text:
            self._items[key].text.append(text)
            self._make_parts()

    def add_length(self, characters: int) -> None:
        """Adds to the length of the answer. Raises ModelFailed when it is longer than MAX_ANSWER_CHARACTERS."""
        self._characters += characters
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise answer_too_long()

    def end(self, key: Hashable, fields: Item | None = None) -> None:
        open_item = self._items[key]
        open_item.ended = True
        open_item.fields = fields or {}
        self._make_parts()

    def take_parts(self) -> list[StreamPart]:
        parts, self._parts = self._parts, []
        return parts

    def _make_parts(self) -> None:
        while self._items:
            key = next(iter(self._items))
            open_item = self._items[key]
            if open_item.item is None:
                return
            if not open_item.started:
                self._parts.append(ItemStarted(open_item.item))
                open_item.started = True
            if open_item.text:
                self._parts.append(ItemDelta("".join(open_item.text)))
                open_item.text.clear()
            if not open_item.ended:
                return
            if open_item.fields:
                self._parts.append(ItemDone(open_item.fields))
            del self._items[key]
