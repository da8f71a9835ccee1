"""The stream of a reply, made again from its record: the same events as the live ones, byte for byte, from any event on.

A stream of 200,000 deltas is not made at once. It is made in pages, and none needs the events before it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from msgspec import Struct

from domain.events import ReplyCompleted
from domain.items import Item, from_stored
from infrastructure.http.stream_pages import SLICE_BYTES, Page
from replies import stream_events
from replies.output import CUT_OFF
from replies.record import Record
from replies.response_from_events import opening_events
from replies.stream_events import StreamEvent, text_of_output


class _Deltas(Struct, frozen=True):
    """The deltas of one output item: those with the numbers `first` to `first + count - 1` of all the reply's deltas."""

    item_id: str
    index: int
    item: Item
    text: str
    first: int
    count: int


class RecordedStream:
    """The events of one reply. Of a running one only the first ones are known."""

    def __init__(self, record: Record) -> None:
        self.key = (record.response_id, record.last.chain_hash)
        """Identifies these events. It is a different key if the log lost this reply's end and has another one now."""
        self.head = record.head
        self.has_ended = record.end is not None
        self._can_be_longer = not isinstance(record.end, ReplyCompleted)
        self._starts = array("q")
        self._segments: list[Sequence[StreamEvent] | _Deltas] = []
        self.count = 0
        """How many events it has."""
        self._delta_ends = array("q", accumulate(record.end.delta_lengths if record.end is not None else ()))
        """Where each delta ends in the text of all output items together."""
        self._add(opening_events(record.requested, record.conversation_id))
        if record.end is not None:
            self._add_output([(stored.item_id, from_stored(stored.item)) for stored in record.output])
            self._ended = stream_events.ended(record.status, record.response())
            self._add([self._ended])
        self.kept_bytes = self._memory_bytes(record) if self.has_ended else 0
        """An estimate of the memory it takes; 0 for a running reply: it will change."""

    def events(self, first: int = 0) -> Iterator[tuple[int, StreamEvent]]:
        """The events from number `first` on, each with its number."""
        position = max(0, bisect_right(self._starts, first) - 1)
        for start, segment in zip(self._starts[position:], self._segments[position:], strict=True):
            skipped = max(0, first - start)
            events = self._deltas(segment, skipped) if isinstance(segment, _Deltas) else segment[skipped:]
            yield from enumerate(events, start + skipped)

    def page(self, after: int) -> Page:
        """The encoded events after number `after`: at most SLICE_BYTES of them, or one larger event. The last page may be empty."""
        if after + 1 >= self.count:
            # A client may have got more events than are recorded, if another process recorded the end. Its stream ends with a higher number.
            if self._can_be_longer and self.has_ended:
                return Page(after + 1, stream_events.encode(self._ended, after + 1), ends=True)
            return Page(after, b"", ends=True)
        page: list[bytes] = []
        size, last = 0, after
        for sequence, event in self.events(after + 1):
            encoded = stream_events.encode(event, sequence)
            if page and size + len(encoded) > SLICE_BYTES:
                break
            page.append(encoded)
            size, last = size + len(encoded), sequence
        return Page(last, b"".join(page), ends=last + 1 == self.count)

    def _add(self, segment: Sequence[StreamEvent] | _Deltas) -> None:
        self._starts.append(self.count)
        self._segments.append(segment)
        self.count += segment.count if isinstance(segment, _Deltas) else len(segment)

    def _add_output(self, items: Sequence[tuple[str, Item]]) -> None:
        first_delta = 0
        for index, (item_id, item) in enumerate(items):
            text = text_of_output(item)
            deltas = _Deltas(item_id, index, item, text, first_delta, self._count_deltas(first_delta, len(text)))
            first_delta += deltas.count
            self._add(list(stream_events.added(item_id, index, item)))
            self._add(deltas)
            is_cut_off = self._can_be_longer and index == len(items) - 1 and item.get("status") == CUT_OFF
            if not is_cut_off:  # an item that was cut off has no closing events
                self._add(list(stream_events.done(item_id, index, item)))

    def _count_deltas(self, first: int, length: int) -> int:
        """How many deltas from number `first` on make a text of this length. The last may be longer, or not recorded."""
        if length == 0:
            return 0
        return bisect_left(self._delta_ends, self._start_of(first) + length, first) - first + 1

    def _start_of(self, delta: int) -> int:
        """Where this delta starts in the text of all output items together."""
        before = min(delta, len(self._delta_ends))
        return self._delta_ends[before - 1] if before else 0

    def _deltas(self, deltas: _Deltas, skipped: int) -> Iterator[StreamEvent]:
        ends = self._delta_ends
        base = self._start_of(deltas.first)
        start = self._start_of(deltas.first + skipped) - base
        for number in range(deltas.first + skipped, deltas.first + deltas.count):
            end = ends[number] - base if number < len(ends) else len(deltas.text)
            yield stream_events.delta(deltas.item_id, deltas.index, deltas.item, deltas.text[start:end])
            start = end

    def _memory_bytes(self, record: Record) -> int:
        # Four times the output: it is in the record, in the items made of it, in their texts and in the Response.
        return 4096 + 4 * sum(len(stored.item) for stored in record.output) + 16 * len(self._delta_ends)
