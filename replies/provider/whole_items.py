"""Output items that a provider sends all at once, told one after the other."""

from collections.abc import Hashable

from msgspec import Struct

from domain.items import Item
from replies.provider.failures import too_long
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, Piece

MAX_ANSWER_BYTES = 1_000_000
"""Characters. A provider that sends more than this has lost its mind."""


class _Turn(Struct):
    """`item` is None until it is known what begins. `text` is what has not been told."""

    item: Item | None
    text: list[str] = []
    fields: Item = {}
    told: bool = False
    ended: bool = False


class Turns:
    """The first item that has not ended is the one that is told; what comes for the others waits. `take` what there is to tell."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}
        self._pieces: list[Piece] = []
        self._length = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._turns

    def open(self) -> list[Hashable]:
        """The items that have not ended, as they began."""
        return [key for key, turn in self._turns.items() if not turn.ended]

    def begin(self, key: Hashable, item: Item | None = None) -> None:
        """A new item, or what an item is that has begun without it."""
        turn = self._turns.setdefault(key, _Turn(None))
        turn.item = turn.item or item
        self.count(len(str(item)))
        self._tell()

    def is_named(self, key: Hashable) -> bool:
        return self._turns[key].item is not None

    def grow(self, key: Hashable, text: str) -> None:
        """More of an item's text. Raises ModelFailed, as `count` does."""
        self.count(len(text))
        text = text.replace("\0", "")  # nothing here could store it, and no client send it back
        if text:
            self._turns[key].text.append(text)
            self._tell()

    def count(self, characters: int) -> None:
        """Raises ModelFailed when the whole answer is longer than MAX_ANSWER_BYTES."""
        self._length += characters
        if self._length > MAX_ANSWER_BYTES:
            raise too_long()

    def end(self, key: Hashable, fields: Item | None = None) -> None:
        turn = self._turns[key]
        turn.ended = True
        turn.fields = fields or {}
        self._tell()

    def take(self) -> list[Piece]:
        """What there is to tell since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _tell(self) -> None:
        while self._turns:
            key = next(iter(self._turns))
            turn = self._turns[key]
            if turn.item is None:
                return
            if not turn.told:
                self._pieces.append(ItemStarted(turn.item))
                turn.told = True
            if turn.text:
                self._pieces.append(ItemDelta("".join(turn.text)))
                turn.text.clear()
            if not turn.ended:
                return
            if turn.fields:
                self._pieces.append(ItemDone(turn.fields))
            del self._turns[key]
