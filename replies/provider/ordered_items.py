"""Puts output items and their parts in order. A provider may stream several items at the same time."""

from collections.abc import Hashable, Iterator, Sequence

from msgspec import Struct

from domain.items import Item
from replies.provider.failures import answer_too_long
from replies.provider.json_text import clean, split_half
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart
from replies.stream_events import field_of, usual_kind

MAX_ANSWER_CHARACTERS = 1_000_000
"""No useful answer is longer."""

PartText = tuple[str, str]


class _OpenPart(Struct, eq=False):
    """A part that is not passed on in full yet.

    `kind`: None for the usual kind. `waiting`: text that is not passed on yet. `half`: the first half of a surrogate
    pair.
    """

    kind: str | None
    waiting: list[str] = []
    length: int = 0
    half: str = ""
    is_first: bool = False
    started: bool = False
    ended: bool = False

    def add(self, text: str) -> None:
        if self.half or not text.isascii() or "\0" in text:
            text, self.half = split_half(self.half + text.replace("\0", ""))
            text = clean(text)
        if text:
            self.waiting.append(text)
            self.length += len(text)

    def end(self) -> None:
        if self.half:
            self.half = ""
            self.add("\ufffd")
        self.ended = True


class _OpenItem(Struct):
    """An item that is not passed on in full yet. `item` is None until its type is known.

    `open`: the parts that are not passed on in full yet.
    """

    item: Item | None
    parts: list[_OpenPart] = []
    open: list[_OpenPart] = []
    by_key: dict[Hashable, _OpenPart] = {}
    fields: Item = {}
    started: bool = False
    ended: bool = False

    def part(self, key: Hashable, kind: str | None) -> _OpenPart:
        """A new part starts if there is none, or if it has ended."""
        part = self.by_key.get(key)
        if part is None or part.ended:
            part = self.by_key[key] = _OpenPart(kind, is_first=not self.parts)
            self.parts.append(part)
            self.open.append(part)
        return part

    def kind_of(self, part: _OpenPart) -> str:
        assert self.item is not None
        return part.kind or usual_kind(self.item)

    def take_parts(self) -> Iterator[StreamPart]:
        """Parts in another field than the first part wait until the item has ended."""
        assert self.item is not None
        in_turn = self.open
        if len(in_turn) > 1:
            first_field = field_of(self.kind_of(self.parts[0]))
            other = [part for part in in_turn if field_of(self.kind_of(part)) != first_field]
            in_turn = [part for part in in_turn if part not in other] + (other if self.ended else [])
        for part in in_turn:
            if part.waiting:
                if not part.started and not (part.is_first and self.kind_of(part) == usual_kind(self.item)):
                    yield PartStarted(self.kind_of(part))
                part.started = True
                yield ItemDelta("".join(part.waiting))
                part.waiting.clear()
            if not part.ended:
                return
            self.open.remove(part)


class OrderedItems:
    """Makes the stream parts of one item at a time, in the order in which the items started.

    Callers choose the keys. A method that makes the answer too long raises ModelFailed.
    """

    def __init__(self) -> None:
        self._items: dict[Hashable, _OpenItem] = {}
        self._parts: list[StreamPart] = []
        self._characters = 0

    @property
    def characters(self) -> int:
        return self._characters

    def open_keys(self) -> list[Hashable]:
        return [key for key, open_item in self._items.items() if not open_item.ended]

    def start(self, key: Hashable, item: Item | None = None) -> None:
        """Starts an item. `item` may come with a later call, when the item's type is known."""
        open_item = self._items.setdefault(key, _OpenItem(None))
        open_item.item = open_item.item or item
        self.add_length(len(str(item)))
        self._make_parts()

    def has_type(self, key: Hashable) -> bool:
        return self._items[key].item is not None

    def add_text(self, key: Hashable, text: str, part: Hashable = 0, kind: str | None = None) -> None:
        self.add_length(len(text))
        if text:
            self._items[key].part(part, kind).add(text)
            self._make_parts()

    def end_part(self, key: Hashable, part: Hashable, kind: str | None = None, text: str = "") -> None:
        """Ends a part. `text`: the part's whole text. Adds what was not added before."""
        open_item = self._items[key]
        open_part = open_item.by_key.get(part)
        if open_part is None and text:
            open_part = open_item.part(part, kind)
        if open_part is not None and not open_part.ended:
            self._add_rest(open_part, text)
            open_part.end()
            self._make_parts()

    def add_length(self, characters: int) -> None:
        self._characters += characters
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise answer_too_long()

    def end(self, key: Hashable, fields: Item | None = None, complete: Sequence[PartText] = ()) -> None:
        """Ends an item. `complete`: (kind, text) of the item's parts, field after field. Adds what was not added before."""
        open_item = self._items[key]
        for field in dict.fromkeys(field_of(kind) for kind, _ in complete):
            in_field = [part for part in complete if field_of(part[0]) == field]
            added = [part for part in open_item.parts if field_of(open_item.kind_of(part)) == field]
            for number, (kind, text) in enumerate(in_field):
                if number >= len(added):
                    self.add_text(key, text, (field, "complete", number), kind)
                elif open_item.kind_of(added[number]) == kind and not added[number].ended:
                    self._add_rest(added[number], text)
        for part in open_item.parts:
            if not part.ended:
                part.end()
        open_item.ended = True
        open_item.fields = fields or {}
        self._make_parts()

    def take_parts(self) -> list[StreamPart]:
        parts, self._parts = self._parts, []
        return parts

    def _add_rest(self, part: _OpenPart, complete_text: str) -> None:
        if rest := complete_text[part.length :]:
            part.half = ""
            self.add_length(len(rest))
            part.add(rest)

    def _make_parts(self) -> None:
        while self._items:
            key = next(iter(self._items))
            open_item = self._items[key]
            if open_item.item is None:
                return
            if not open_item.started:
                self._parts.append(ItemStarted(open_item.item))
                open_item.started = True
            self._parts += open_item.take_parts()
            if not open_item.ended:
                return
            if open_item.fields:
                self._parts.append(ItemDone(open_item.fields))
            del self._items[key]
