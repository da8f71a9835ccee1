"""A decided batch: what to write, and the outcome of each request."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from domain.events import Event
from infrastructure.event_log.append_request import Appended, AppendRequest, StreamName
from infrastructure.event_log.streams import Stream, StreamCache
from infrastructure.event_log.write import IdempotencyRecord, Write


class AppendOutcome(Struct):
    """What became of one request of a batch.

    stream        the request's stream after this request
    last_row      the index of the stream's last row in the plan; None if the plan has no row of the stream yet
    replayed      the stored result of an earlier request with the same key
    duplicate_of  an earlier request of this batch with the same key
    """

    request: AppendRequest
    events: tuple[Event, ...] = ()
    last_row: int | None = None
    stream: Stream | None = None
    answer: bytes | None = None
    replayed: Appended | None = None
    duplicate_of: "AppendOutcome | None" = None
    error: BaseException | None = None

    @property
    def stores_key(self) -> bool:
        """A key is stored only if the command appends something."""
        return bool(self.events) and self.request.idempotency is not None and self.request.answer is not None

    def idempotency_record(self) -> IdempotencyRecord:
        """Headers are not stored, because a repeat makes them from the stored version and position."""
        assert self.last_row is not None
        assert self.request.idempotency is not None
        assert self.request.answer is not None
        self.answer = self.request.answer(self.appended(position=0))
        idempotency = self.request.idempotency
        return IdempotencyRecord(self.last_row + 1, idempotency.key, idempotency.fingerprint, self.answer)

    def result(self, positions: Sequence[int]) -> Appended | BaseException:
        """`positions`: the positions of the plan's rows."""
        if self.error is not None:
            return self.error
        if self.replayed is not None:
            return self.replayed
        if self.duplicate_of is not None:
            original = self.duplicate_of
            assert original.last_row is not None
            return replace(original.appended(positions[original.last_row]), events=(), replayed=True)
        assert self.stream is not None
        return self.appended(self.stream.position if self.last_row is None else positions[self.last_row])

    def appended(self, position: int) -> Appended:
        assert self.stream is not None
        return Appended(
            conversation=self.stream.state,
            version=self.stream.state.version,
            position=position,
            recorded_at=self.stream.recorded_at,
            events=self.events,
            answer=self.answer,
        )


class BatchPlan(Struct, eq=False):
    """`last_rows`: the index in `write.rows` of each stream's last row.

    `races`: how many requests are for a stream to which another process had appended.
    """

    outcomes: list[AppendOutcome]
    write: Write
    streams: dict[StreamName, Stream]
    last_rows: dict[StreamName, int]
    races: int = 0

    def apply(self, positions: Sequence[int], cache: StreamCache) -> list[Appended | BaseException]:
        """Call it when the rows are durable."""
        for name, stream in self.streams.items():
            cache.put(name, replace(stream, position=positions[self.last_rows[name]]))
        return [outcome.result(positions) for outcome in self.outcomes]
