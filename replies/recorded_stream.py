"""The stream of a reply, made again from its record. Its events equal the live events as far as the record allows.

A stream may have 200,000 deltas, so it is made in pages.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, chain

from msgspec import Struct
from msgspec.structs import replace

from domain.events import ReplyCompleted
from domain.items import CUT_OFF, Item, from_stored
from infrastructure.http.stream_pages import SLICE_BYTES, Page
from replies import stream_events
from replies.record import Record
from replies.response_from_events import opening_events
from replies.stream_events import PartPosition, StreamEvent, is_streamed, new_part, parts_of


class _Deltas(Struct, frozen=True):
    """The deltas of one part.

    `first`: the number of the part's first delta in the reply. `start`: the offset of the part's text in the text of
    all parts.
    """

    position: PartPosition
    text: str
    start: int
    first: int
    count: int


class RecordedKey(Struct, frozen=True):
    """Identifies a recorded stream. The key changes when the events of the stream change.

    `last`: the chain hash of the reply's end, or of the request while the reply runs.
    `described`: the chain hash of the newest change of the metadata.
    """

    response_id: str
    last: str
    retracted: frozenset[str]
    described: str | None

    def differs_at_most_in_metadata(self, other: "RecordedKey") -> bool:
        """A change of the metadata changes only the last event."""
        return replace(self, described=None) == replace(other, described=None)


class RecordedStream:
    """The events of a recorded reply. Of a running reply, only the first events are known."""

    def __init__(self, record: Record) -> None:
        self.key = RecordedKey(
            record.response_id,
            (record.end_event or record.request_event).chain_hash,
            record.retracted,
            None if record.described_event is None else record.described_event.chain_hash,
        )
        self.head = record.head
        self.has_ended = record.end is not None
        self._can_be_longer = not isinstance(record.end, ReplyCompleted)
        self._starts = array("q")
        self._segments: list[Sequence[StreamEvent] | _Deltas] = []
        self.count = 0
        self._delta_ends = array("q", accumulate(record.end.delta_lengths if record.end is not None else ()))
        """Offsets in the text of all parts."""
        self._add(opening_events(record.requested, record.conversation_id))
        if record.end is not None:
            items = [(stored.item_id, from_stored(stored.item)) for stored in record.output]
            self._add_output(items, record.retracted)
            self._ended = stream_events.ended(record.status, record.response())
            self._add([self._ended])
        self.kept_bytes = self._memory_bytes(record) if self.has_ended else 0
        """An estimate. 0 for a running reply, whose events will change."""

    def events(self, first: int = 0) -> Iterator[tuple[int, StreamEvent]]:
        """Yields (number, event) from number `first` on."""
        position = max(0, bisect_right(self._starts, first) - 1)
        for start, segment in zip(self._starts[position:], self._segments[position:], strict=True):
            skipped = max(0, first - start)
            events = self._deltas(segment, skipped) if isinstance(segment, _Deltas) else segment[skipped:]
            yield from enumerate(events, start + skipped)

    def page(self, after: int) -> Page:
        """At most SLICE_BYTES of events after number `after`, or one larger event. The last page may be empty."""
        if after + 1 >= self.count:
            # If another process recorded the end, a client may have got more events than are recorded.
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

    def _add_output(self, items: Sequence[tuple[str, Item]], retracted: Collection[str]) -> None:
        """The recorded deltas include the deltas of retracted items."""
        parts = [parts_of(item) for _, item in items]
        without_summaries = sum(len(part.text) for part in chain(*parts) if part.kind != "summary_text")
        # Earlier versions of the store did not stream summaries, so their deltas are not in the record.
        has_summary_deltas = bool(self._delta_ends) and self._delta_ends[-1] > without_summaries
        start = index = 0
        for (item_id, item), item_parts in zip(items, parts, strict=True):
            if item_id in retracted:
                start += sum(len(part.text) for part in item_parts if part.kind != "summary_text" or has_summary_deltas)
                continue
            is_last = item_id == items[-1][0]
            # An item that was cut off has no closing events, and no parts without text.
            is_cut_off = self._can_be_longer and is_last and is_streamed(item) and item.get("status") == CUT_OFF
            streamed = [part for part in item_parts if part.text or not is_cut_off]
            last_with_text = max((number for number, part in enumerate(streamed) if part.text), default=-1)
            self._add([stream_events.added(item_id, index, item)])
            for number, part in enumerate(streamed):
                position = PartPosition(item_id, index, part.kind, part.index)
                has_deltas = part.kind != "summary_text" or has_summary_deltas
                self._add(list(stream_events.part_added(position)))
                self._add(self._deltas_of(position, part.text, start, has_deltas))
                start += len(part.text) if has_deltas else 0
                if number < last_with_text:  # the part as it was when the next part started
                    self._add(list(stream_events.part_done(position, new_part(part.kind, part.text))))
                elif not is_cut_off:
                    self._add(list(stream_events.part_done(position, part.part)))
            if not is_cut_off:
                self._add([stream_events.done(item_id, index, item)])
            index += 1

    def _deltas_of(self, position: PartPosition, text: str, start: int, is_recorded: bool) -> _Deltas:
        """If the deltas are not recorded, the text is one delta."""
        if not is_recorded or not text:
            return _Deltas(position, text, start, 0, min(1, len(text)))
        first = bisect_right(self._delta_ends, start)
        return _Deltas(
            position, text, start, first, bisect_left(self._delta_ends, start + len(text), first) - first + 1
        )

    def _deltas(self, deltas: _Deltas, skipped: int) -> Iterator[StreamEvent]:
        ends = self._delta_ends
        start = ends[deltas.first + skipped - 1] - deltas.start if skipped else 0
        for number in range(deltas.first + skipped, deltas.first + deltas.count):
            is_last = number == deltas.first + deltas.count - 1
            end = len(deltas.text) if is_last else ends[number] - deltas.start
            yield stream_events.delta(deltas.position, deltas.text[start:end])
            start = end

    def _memory_bytes(self, record: Record) -> int:
        # Four times the output, because it is in the record, in the items, in their texts and in the Response.
        return 4096 + 4 * sum(len(stored.item) for stored in record.output) + 16 * len(self._delta_ends)
