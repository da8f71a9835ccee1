"""A decided batch: what to write for its commands, and the outcome of each request."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from domain.events import Event
from infrastructure.event_log.append_request import Appended, AppendRequest, StreamName
from infrastructure.event_log.streams import Stream, StreamCache
from infrastructure.event_log.write import IdempotencyRecord, Write


class AppendOutcome(Struct):
    """The outcome of one request: events (none if it changes nothing), the result of an earlier request with the same key, or an error.

    `stream`: the request's stream after this request. `last_row`: the index, in the plan's rows, of the last row of that stream; None if the plan
    has no row of that stream so far. `answer`: the body to store with the request's idempotency key. `replayed`: the stored result of an earlier
    request with the same key. `duplicate_of`: the outcome of an earlier request of this batch with the same key.
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
        """Whether the request's idempotency key is stored. It is not stored if the command appends nothing."""
        return bool(self.events) and self.request.idempotency is not None and self.request.answer is not None

    def idempotency_record(self) -> IdempotencyRecord:
        """Sets `answer` to the body of the answer, and returns the record that stores the body.

        The headers of the answer are not stored: a repeat makes them from the stored version and position.
        """
        assert self.last_row is not None
        assert self.request.idempotency is not None
        assert self.request.answer is not None
        self.answer = self.request.answer(self.appended(position=0))
        idempotency = self.request.idempotency
        return IdempotencyRecord(self.last_row + 1, idempotency.key, idempotency.fingerprint, self.answer)

    def result(self, positions: Sequence[int]) -> Appended | BaseException:
        """The result for the caller, when the plan's rows are durable at `positions`."""
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
        """The result of a request that was decided and not refused."""
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
    """The outcome of each request of a batch, what to write for all of them, and the changed streams after the batch.

    `last_rows`: the index in `write.rows` of each stream's last row. `races`: how many requests found that another process had appended to
    their stream.
    """

    outcomes: list[AppendOutcome]
    write: Write
    streams: dict[StreamName, Stream]
    last_rows: dict[StreamName, int]
    races: int = 0

    def apply(self, positions: Sequence[int], cache: StreamCache) -> list[Appended | BaseException]:
        """Call it when the rows are durable at `positions`: caches the streams and returns each caller's result."""
        for name, stream in self.streams.items():
            cache.put(name, replace(stream, position=positions[self.last_rows[name]]))
        return [outcome.result(positions) for outcome in self.outcomes]
