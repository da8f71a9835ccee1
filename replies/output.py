"""The output of a running reply: the provider's stream parts become output items and stream events. Pure, except that it mints ids."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from domain.events import InputItem
from domain.items import Item, as_stored, id_prefix, type_of
from infrastructure.ids import mint
from replies import stream_events
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart
from replies.stream_events import StreamEvent

MESSAGE: Item = {"type": "message", "role": "assistant"}
CUT_OFF = "incomplete"
"""The status of an item that ended early."""


class PartialItem(Struct):
    """An output item that is not complete; `texts` are its deltas."""

    item_id: str
    item: Item
    texts: list[str]

    @property
    def is_streamed(self) -> bool:
        """Whether the stream has events for it before it is complete."""
        return type_of(self.item) in stream_events.STREAMED_TYPES

    def as_item(self, status: str) -> Item:
        return stream_events.with_text(self.item, "".join(self.texts), status)


class Output:
    """The output of one reply, item after item."""

    def __init__(self) -> None:
        self._done: list[tuple[str, Item]] = []
        self._partial: PartialItem | None = None
        self._delta_lengths: list[int] = []

    @property
    def delta_lengths(self) -> tuple[int, ...]:
        """The length of each delta so far, in characters."""
        return tuple(self._delta_lengths)

    @property
    def text(self) -> str:
        """All text so far, for counting."""
        return "".join(stream_events.text_of_output(item) for _, item in self._items(CUT_OFF))

    def add(self, part: StreamPart) -> Iterator[StreamEvent]:
        """Adds a stream part; yields the events it leads to."""
        match part:
            case ItemStarted():
                yield from self._close("completed")
                self._partial = PartialItem(mint(id_prefix(part.item)), part.item, [])
                if self._partial.is_streamed:
                    yield from stream_events.added(self._partial.item_id, len(self._done), part.item)
            case ItemDelta():
                if self._partial is None:
                    yield from self.add(ItemStarted(MESSAGE))
                    assert self._partial is not None
                self._partial.texts.append(part.text)
                self._delta_lengths.append(len(part.text))
                yield stream_events.delta(self._partial.item_id, len(self._done), self._partial.item, part.text)
            case ItemDone() if self._partial is not None:
                partial = self._partial
                partial.item = {**partial.item, **part.fields}
                if not partial.texts and (text := stream_events.text_of_output(partial.item)):
                    yield from self.add(ItemDelta(text))  # the provider sent the text only in the complete item
                yield from self._close("completed")
            case _:
                pass

    def finish(self, status: str) -> Iterator[StreamEvent]:
        """Ends the last item with this status; yields the events. An answer without items becomes one empty message."""
        if self._partial is None and not self._done:
            yield from self.add(ItemStarted(MESSAGE))
        yield from self._close(status)

    def items(self) -> tuple[InputItem, ...]:
        """The items to store; a partial one has the status CUT_OFF."""
        return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in self._items(CUT_OFF))

    def _items(self, status: str) -> Sequence[tuple[str, Item]]:
        if self._partial is None or not self._partial.is_streamed:
            return self._done
        return [*self._done, (self._partial.item_id, self._partial.as_item(status))]

    def _close(self, status: str) -> Iterator[StreamEvent]:
        if (partial := self._partial) is not None:
            item, index, self._partial = partial.as_item(status), len(self._done), None
            self._done.append((partial.item_id, item))
            if not partial.is_streamed:
                yield from stream_events.added(partial.item_id, index, item)
            yield from stream_events.done(partial.item_id, index, item)


def output_of_events(events: Iterable[StreamEvent]) -> tuple[tuple[InputItem, ...], tuple[int, ...]]:
    """The output items and delta lengths in the events of a stream that broke off."""
    items: list[tuple[str, Item]] = []
    texts: list[list[str]] = []
    complete: set[int] = set()
    lengths: list[int] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            item: Item = event["item"]
            items.append((item["id"], {name: value for name, value in item.items() if name not in ("id", "status")}))
            texts.append([])
        elif kind == "response.output_item.done":
            item_id = event["item"]["id"]
            items[event["output_index"]] = (
                item_id,
                {name: value for name, value in event["item"].items() if name != "id"},
            )
            complete.add(event["output_index"])
        elif kind.endswith(".delta"):
            texts[event["output_index"]].append(event["delta"])
            lengths.append(len(event["delta"]))
    stored_items = (
        (item_id, item if index in complete else stream_events.with_text(item, "".join(texts[index]), CUT_OFF))
        for index, (item_id, item) in enumerate(items)
    )
    return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in stored_items), tuple(lengths)
