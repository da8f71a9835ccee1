"""What a reply has said so far: the provider's pieces become output items, and the events of its stream. Pure but for the ids."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from domain.events import InputItem
from domain.items import Item, as_stored, from_stored, prefix, type_of
from infrastructure.ids import mint
from replies import stream_events
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart
from replies.stream_events import StreamEvent

MESSAGE: Item = {"type": "message", "role": "assistant"}
CUT_OFF = "incomplete"
"""The status of an item that did not come to its end."""


class PartialItem(Struct):
    """An output item that is under way; `texts` are the pieces it grew by."""

    item_id: str
    item: Item
    texts: list[str]

    @property
    def is_told(self) -> bool:
        """Whether a stream tells of it before it is whole."""
        return type_of(self.item) in stream_events.GROWING

    def whole(self, status: str) -> Item:
        return stream_events.with_text(self.item, "".join(self.texts), status)


class Output:
    """The output of one reply, item after item."""

    def __init__(self) -> None:
        self._done: list[tuple[str, Item]] = []
        self._growing: PartialItem | None = None
        self._lengths: list[int] = []

    @property
    def lengths(self) -> tuple[int, ...]:
        """The characters of each piece so far."""
        return tuple(self._lengths)

    @property
    def text(self) -> str:
        """All that was said so far, for counting."""
        return "".join(stream_events.text_of_output(item) for _, item in self._items(CUT_OFF))

    def take(self, piece: StreamPart) -> Iterator[StreamEvent]:
        """The events that a piece leads to."""
        match piece:
            case ItemStarted():
                yield from self._close("completed")
                self._growing = PartialItem(mint(prefix(piece.item)), piece.item, [])
                if self._growing.is_told:
                    yield from stream_events.added(self._growing.item_id, len(self._done), piece.item)
            case ItemDelta():
                if self._growing is None:
                    yield from self.take(ItemStarted(MESSAGE))
                    assert self._growing is not None
                self._growing.texts.append(piece.text)
                self._lengths.append(len(piece.text))
                yield stream_events.delta(self._growing.item_id, len(self._done), self._growing.item, piece.text)
            case ItemDone() if self._growing is not None:
                growing = self._growing
                growing.item = {**growing.item, **piece.fields}
                if not growing.texts and (text := stream_events.text_of_output(growing.item)):
                    yield from self.take(ItemDelta(text))  # it came all at once
                yield from self._close("completed")
            case _:
                pass

    def finish(self, status: str) -> Iterator[StreamEvent]:
        """The last item is whole, or as much of it as there will be (`status` says); an answer of nothing is an empty message."""
        if self._growing is None and not self._done:
            yield from self.take(ItemStarted(MESSAGE))
        yield from self._close(status)

    def items(self) -> tuple[InputItem, ...]:
        """The items as they are kept; one that still grows is cut off there."""
        return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in self._items(CUT_OFF))

    def _items(self, status: str) -> Sequence[tuple[str, Item]]:
        if self._growing is None or not self._growing.is_told:
            return self._done
        return [*self._done, (self._growing.item_id, self._growing.whole(status))]

    def _close(self, status: str) -> Iterator[StreamEvent]:
        if (growing := self._growing) is not None:
            item, index, self._growing = growing.whole(status), len(self._done), None
            self._done.append((growing.item_id, item))
            if not growing.is_told:
                yield from stream_events.added(growing.item_id, index, item)
            yield from stream_events.done(growing.item_id, index, item)


def told(stream: Iterable[StreamEvent]) -> tuple[tuple[InputItem, ...], tuple[int, ...]]:
    """The output items, and the lengths of their pieces, that the events of a stream which broke off have told of."""
    items: list[tuple[str, Item]] = []
    texts: list[list[str]] = []
    whole: set[int] = set()
    lengths: list[int] = []
    for event in stream:
        kind = event["type"]
        if kind == "response.output_item.added":
            item: Item = event["item"]
            items.append((item["id"], {name: value for name, value in item.items() if name not in ("id", "status")}))
            texts.append([])
        elif kind == "response.output_item.done":
            item_id = event["item"]["id"]
            items[event["output_index"]] = (item_id, {name: v for name, v in event["item"].items() if name != "id"})
            whole.add(event["output_index"])
        elif kind.endswith(".delta"):
            texts[event["output_index"]].append(event["delta"])
            lengths.append(len(event["delta"]))
    kept = (
        (item_id, item if index in whole else stream_events.with_text(item, "".join(texts[index]), CUT_OFF))
        for index, (item_id, item) in enumerate(items)
    )
    return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in kept), tuple(lengths)


def opened_again(items: Sequence[InputItem], lengths: Sequence[int]) -> Iterator[StreamEvent]:
    """The events of a reply that was cut off: those of its items, but that the last one, if it did not come to its end, has none."""
    stored = [(given.item_id, from_stored(given.item)) for given in items]
    stream = list(stream_events.of_items(stored, lengths))
    if stored and stored[-1][1].get("status") == CUT_OFF:
        last = len(list(stream_events.done(stored[-1][0], len(stored) - 1, stored[-1][1])))
        del stream[len(stream) - last :]
    yield from stream
