"""Turns the stream parts of a running reply into output items and stream events."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from domain.events import InputItem
from domain.items import CUT_OFF, Item, as_stored, id_prefix
from infrastructure.ids import mint
from replies import stream_events
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, PartStarted, StreamPart
from replies.stream_events import PartPosition, StreamEvent

MESSAGE: Item = {"type": "message", "role": "assistant"}


class _StreamedPart(Struct):
    position: PartPosition
    texts: list[str]

    def text(self) -> tuple[str, str]:
        return self.position.kind, "".join(self.texts)


class _PartialItem(Struct):
    """An output item that is not complete yet. `next_kind`: the kind of the part that starts with the next delta."""

    item_id: str
    item: Item
    parts: list[_StreamedPart] = []
    next_kind: str | None = None

    @property
    def is_streamed(self) -> bool:
        return stream_events.is_streamed(self.item)

    def as_item(self, status: str) -> Item:
        return stream_events.with_parts(self.item, [part.text() for part in self.parts], status)


class Output:
    def __init__(self) -> None:
        self._done: list[tuple[str, Item]] = []
        self._partial: _PartialItem | None = None
        self._delta_lengths: list[int] = []

    @property
    def delta_lengths(self) -> tuple[int, ...]:
        """In characters."""
        return tuple(self._delta_lengths)

    @property
    def text(self) -> str:
        return "".join(stream_events.text_of_output(item) for _, item in self._items(CUT_OFF))

    def add(self, part: StreamPart) -> Iterator[StreamEvent]:
        match part:
            case ItemStarted():
                yield from self._close("completed")
                self._partial = _PartialItem(mint(id_prefix(part.item)), part.item)
                if self._partial.is_streamed:
                    yield stream_events.added(self._partial.item_id, len(self._done), part.item)
            case PartStarted():
                yield from self._message_if_none()
                self._open().next_kind = part.kind
            case ItemDelta():
                yield from self._message_if_none()
                yield from self._add_text(self._open(), part.text)
            case ItemDone() if self._partial is not None:
                partial = self._partial
                partial.item = {**partial.item, **part.fields}
                if not partial.parts:  # the provider sent the text only in the complete item
                    for item_part in stream_events.parts_of(partial.item):
                        if item_part.text:
                            partial.next_kind = item_part.kind
                            yield from self._add_text(partial, item_part.text)
                yield from self._close("completed")
            case _:
                pass

    def finish(self, status: str) -> Iterator[StreamEvent]:
        """Completes the last item with this status. An answer without items becomes one empty message."""
        if self._partial is None and not self._done:
            yield from self.add(ItemStarted(MESSAGE))
        yield from self._close(status)

    def items(self) -> tuple[InputItem, ...]:
        """A partial item has the status CUT_OFF, or is left out if its type is not streamed."""
        return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in self._items(CUT_OFF))

    def _items(self, status: str) -> Sequence[tuple[str, Item]]:
        if self._partial is None or not self._partial.is_streamed:
            return self._done
        return [*self._done, (self._partial.item_id, self._partial.as_item(status))]

    def _message_if_none(self) -> Iterator[StreamEvent]:
        if self._partial is None:
            yield from self.add(ItemStarted(MESSAGE))

    def _open(self) -> _PartialItem:
        assert self._partial is not None
        return self._partial

    def _add_text(self, partial: _PartialItem, text: str) -> Iterator[StreamEvent]:
        if partial.next_kind is not None or not partial.parts:
            yield from self._start_part(partial, partial.next_kind or stream_events.usual_kind(partial.item))
        part = partial.parts[-1]
        part.texts.append(text)
        self._delta_lengths.append(len(text))
        yield stream_events.delta(part.position, text)

    def _start_part(self, partial: _PartialItem, kind: str) -> Iterator[StreamEvent]:
        """A part without text is sent only when its item is complete."""
        if partial.parts:
            before = partial.parts[-1]
            yield from stream_events.part_done(before.position, stream_events.new_part(*before.text()))
        field = stream_events.field_of(kind)
        index = sum(stream_events.field_of(part.position.kind) == field for part in partial.parts)
        partial.next_kind = None
        partial.parts.append(_StreamedPart(PartPosition(partial.item_id, len(self._done), kind, index), []))
        yield from stream_events.part_added(partial.parts[-1].position)

    def _close(self, status: str) -> Iterator[StreamEvent]:
        if (partial := self._partial) is not None:
            item, index, self._partial = partial.as_item(status), len(self._done), None
            self._done.append((partial.item_id, item))
            if not partial.is_streamed:
                yield stream_events.added(partial.item_id, index, item)
            for number, part in enumerate(stream_events.parts_of(item), 1):
                position = PartPosition(partial.item_id, index, part.kind, part.index)
                if number > len(partial.parts):
                    yield from stream_events.part_added(position)
                if number >= len(partial.parts):
                    yield from stream_events.part_done(position, part.part)
            yield stream_events.done(partial.item_id, index, item)


def output_of_events(events: Iterable[StreamEvent]) -> tuple[tuple[InputItem, ...], tuple[int, ...]]:
    """The items and the delta lengths of a stream that broke off."""
    items: list[tuple[str, Item]] = []
    parts: list[list[tuple[str, list[str]]]] = []
    complete: set[int] = set()
    lengths: list[int] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            item: Item = event["item"]
            items.append((item["id"], {name: value for name, value in item.items() if name not in ("id", "status")}))
            parts.append([])
        elif kind == "response.output_item.done":
            item_id = event["item"]["id"]
            items[event["output_index"]] = (
                item_id,
                {name: value for name, value in event["item"].items() if name != "id"},
            )
            complete.add(event["output_index"])
        elif kind.endswith("_part.added"):
            parts[event["output_index"]].append((event["part"]["type"], []))
        elif kind.endswith(".delta"):
            index = event["output_index"]
            if not parts[index]:
                parts[index].append((stream_events.usual_kind(items[index][1]), []))
            parts[index][-1][1].append(event["delta"])
            lengths.append(len(event["delta"]))
    stored_items = (
        (item_id, item if index in complete else _cut_off(item, parts[index]))
        for index, (item_id, item) in enumerate(items)
    )
    return tuple(InputItem(item_id=item_id, item=as_stored(item)) for item_id, item in stored_items), tuple(lengths)


def _cut_off(item: Item, parts: Sequence[tuple[str, Sequence[str]]]) -> Item:
    with_text = [(kind, "".join(texts)) for kind, texts in parts if texts]
    return stream_events.with_parts(item, with_text, CUT_OFF)
