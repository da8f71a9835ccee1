"""BatchDecider a batch of commands on the streams they are for, ahead of the append lock or under it. The writer calls it.

What a batch needs of Postgres is read in a fixed number of round trips, however many commands it holds.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import Cursor

from domain.commands import DeleteConversation
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.errors import ConversationNotFound
from domain.events import REPLY_ENDS, ConversationDeleted, Event, ReplyRequested
from infrastructure.event_log.append_request import Appended, AppendRequest, IdempotencyKey, KeyReused, VersionMismatch
from infrastructure.event_log.chain import GENESIS
from infrastructure.event_log.codec import decode, encode
from infrastructure.event_log.recorder import ConversationRecorder, FirstAnswer, Write
from infrastructure.event_log.rows import Row, chained_row
from infrastructure.event_log.streams import Stream, Streams, fold
from infrastructure.ids import conversation_id, uuid_of

_BEGINS = frozenset({ReplyRequested.topic})
_ENDS = frozenset(end.topic for end in REPLY_ENDS)


class AppendOutcome(Struct):
    """What became of one command: its events, a first answer, or an error.

    `last_row`: where in the plan the last row of its stream stands that was there when it was decided, its own included.
    `answer` is the body that is kept with the command's key.
    """

    work: AppendRequest
    events: tuple[Event, ...] = ()
    last_row: int | None = None
    stream: Stream | None = None
    answer: bytes | None = None
    replayed: Appended | None = None
    same_as: "AppendOutcome | None" = None
    error: BaseException | None = None

    @property
    def has_key(self) -> bool:
        """Whether its answer is kept with its key: only that of a command that appends."""
        return bool(self.events) and self.work.idempotency is not None and self.work.answer is not None


class BatchPlan(Struct, eq=False):
    """A decided batch: an outcome for each command, what to write for all of them, and the streams' new ends.

    `last_rows`: where each stream's last row stands. `races` counts the commands whose stream another process had appended to since this one looked last.
    """

    outcomes: list[AppendOutcome]
    write: Write
    ends: dict[str, Stream]
    last_rows: dict[str, int]
    races: int = 0

    def settle(self, positions: Sequence[int], streams: Streams) -> list[Appended | BaseException]:
        """What each caller is told, now that the rows are durable at `positions`; the cache learns the new ends."""
        for ident, end in self.ends.items():
            streams.remember(ident, replace(end, position=positions[self.last_rows[ident]]))
        return [_told(outcome, positions) for outcome in self.outcomes]


class BatchDecider:
    """One batch: decides one command after the other, each on the state that those before it lead to.

    A key whose first answer was kept before `keys_since` counts as new. `owner`: the process that runs the replies asked for.
    """

    def __init__(
        self,
        recorder: ConversationRecorder,
        streams: Streams,
        now: datetime,
        keys_since: datetime,
        owner: UUID | None = None,
    ) -> None:
        self._recorder = recorder
        self._streams = streams
        self._now = now
        self._keys_since = keys_since
        self._owner = owner
        self._held: dict[str, Stream] = {}
        self._rows: list[Row] = []
        self._ends: dict[str, Stream] = {}
        self._last_rows: dict[str, int] = {}
        self._items: dict[tuple[str, str], KnownItem] = {}
        self._touched: set[tuple[str, str]] = set()
        self._first_answers: dict[tuple[str, str], tuple[bytes, Appended]] = {}
        self._in_batch: dict[tuple[str, str], AppendOutcome] = {}

    def ahead(self, batch: Sequence[AppendRequest]) -> BatchPlan | None:
        """The batch decided on what is in memory, without a look at the log; None where that is not enough.

        It is enough for commands that touch no items, and when each of them leads to events: a refusal, or a command that
        changes nothing, may be due to a state that is old. That no key has a first answer yet is for `append_at_once` to see.
        """
        if any(work.command.touches for work in batch):
            return None
        self._hold(batch)
        outcomes = [self._outcome(work) for work in batch]
        if any(not outcome.events and outcome.same_as is None for outcome in outcomes):
            return None
        return self._plan(batch, outcomes)

    def under_lock(self, curs: Cursor[Any], batch: Sequence[AppendRequest]) -> BatchPlan:
        """The batch decided on what the log says. `curs` holds the append lock."""
        self._hold(batch)
        newer = self._recorder.select_since(curs, self._held_versions(batch))
        fold(self._held, newer)
        moved = {conversation_id(stream_id) for stream_id, *_ in newer}
        for ident in moved:
            self._streams.remember(ident, self._held[ident])
        self._touched = {(work.conversation_id, item) for work in batch for item in work.command.touches}
        if self._touched:
            asked = [(uuid_of(ident), item) for ident, item in self._touched]
            for stream_id, item_id, topic, state in self._recorder.select_items(curs, asked):
                self._know(conversation_id(stream_id), item_id, decode(topic, state))
        if keys := [(work.principal.tenant, work.idempotency.key) for work in batch if work.idempotency]:
            self._read_first_answers(curs, keys)
        outcomes = [self._outcome(work) for work in batch]
        races = sum(work.conversation_id in moved for work in batch) if moved else 0
        return self._plan(batch, outcomes, races)

    def _plan(self, batch: Sequence[AppendRequest], outcomes: list[AppendOutcome], races: int = 0) -> BatchPlan:
        topics = {row.topic for row in self._rows}
        write = Write(
            rows=self._rows,
            held=self._held_versions(batch),
            responses=[] if topics.isdisjoint(_BEGINS) else self._rows_of(_BEGINS),
            owner=self._owner,
            over=[] if topics.isdisjoint(_ENDS) else self._rows_of(_ENDS),
            deleted=[row.originator_id for row in self._rows if row.topic == ConversationDeleted.topic]
            if ConversationDeleted.topic in topics
            else [],
            answers=[_first_answer(outcome) for outcome in outcomes if outcome.has_key],
            keys_since=self._keys_since,
        )
        return BatchPlan(outcomes, write, self._ends, self._last_rows, races)

    def _rows_of(self, topics: frozenset[str]) -> list[tuple[int, str]]:
        """The replies whose rows have these topics: (row, from 1; response id)."""
        return [(number, row.item_id or "") for number, row in enumerate(self._rows, 1) if row.topic in topics]

    def _held_versions(self, batch: Sequence[AppendRequest]) -> dict[UUID, int]:
        """The version of each stream that the batch is decided on; 0 for one that is new."""
        asked = dict.fromkeys(work.conversation_id for work in batch)
        return {uuid_of(ident): held.state.version if (held := self._held.get(ident)) else 0 for ident in asked}

    def _hold(self, batch: Sequence[AppendRequest]) -> None:
        """Takes the streams of the batch to itself: memory may let go of some of them while it takes in others."""
        for work in batch:
            if (held := self._streams.get(work.conversation_id)) is not None:
                self._held[work.conversation_id] = held

    def _outcome(self, work: AppendRequest) -> AppendOutcome:
        try:
            if work.idempotency is not None and (first := self._first_answer(work, work.idempotency)) is not None:
                return first
            return self._decide(work)
        except Exception as error:  # noqa: BLE001 - one command's failure, whatever it is, is its caller's alone
            return AppendOutcome(work, error=error)

    def _first_answer(self, work: AppendRequest, idempotency: IdempotencyKey) -> AppendOutcome | None:
        """The answer that the command's key was given before, in the log or earlier in this batch."""
        key = (work.principal.tenant, idempotency.key)
        if (earlier := self._in_batch.get(key)) is not None:
            assert earlier.work.idempotency is not None
            if earlier.work.idempotency.fingerprint != idempotency.fingerprint:
                raise KeyReused
            return AppendOutcome(work, same_as=earlier)
        if (kept := self._first_answers.get(key)) is not None:
            fingerprint, appended = kept
            if fingerprint != idempotency.fingerprint:
                raise KeyReused
            end = self._held.get(appended.conversation.id)
            if end is not None and end.state.status == "deleted" and not isinstance(work.command, DeleteConversation):
                raise ConversationNotFound(appended.conversation.id)  # what was said in it is not told again
            return AppendOutcome(work, replayed=appended)
        return None

    def _decide(self, work: AppendRequest) -> AppendOutcome:
        ident = work.conversation_id
        end = self._ends.get(ident) or self._held.get(ident)
        state = end.state if end else None
        if state is not None and state.tenant != work.principal.tenant:
            raise ConversationNotFound(ident)
        if state is not None and not _matches(work, state):
            raise VersionMismatch(state.version)
        known = {item: it for item in work.command.touches if (it := self._items.get((ident, item))) is not None}
        events = decide(ident, state, work.command, known)
        outcome = AppendOutcome(work, events, self._last_rows.get(ident), end)
        if not events:
            return outcome
        recorded_at = max(self._now, end.recorded_at) if end else self._now
        chained = end.chain_hash if end else GENESIS
        rows: list[Row] = []
        for event in events:
            state = evolve(state, event)
            row = chained_row(
                chained,
                originator_id=uuid_of(ident),
                version=state.version,
                topic=event.topic,
                state=encode(event),
                tenant=work.principal.tenant,
                item_id=event.row_key,
                recorded_at=recorded_at,
                subject=work.principal.subject,
                command_id=work.command_id,
                correlation_id=work.correlation_id,
            )
            chained = row.chain_hash
            rows.append(row)
        assert state is not None
        if self._touched:
            for event in events:
                if event.row_key is not None:
                    self._know(ident, event.row_key, event)
        self._rows += rows
        outcome.stream = self._ends[ident] = Stream(state, 0, recorded_at, chained, end.snapshotted if end else 0)
        outcome.last_row = self._last_rows[ident] = len(self._rows) - 1
        if outcome.has_key:
            assert work.idempotency is not None
            self._in_batch[work.principal.tenant, work.idempotency.key] = outcome
        return outcome

    def _know(self, ident: str, item_id: str, event: Event) -> None:
        if (ident, item_id) not in self._touched:
            return
        known = evolve_item(self._items.get((ident, item_id)), event)
        if known is not None:
            self._items[ident, item_id] = known

    def _read_first_answers(self, curs: Cursor[Any], keys: Sequence[tuple[str, str]]) -> None:
        curs.execute(
            "SELECT k.tenant_id, k.key, k.fingerprint, k.conversation_id, k.version, k.position, k.answer, k.recorded_at"
            " FROM unnest(%b::text[], %b::text[]) AS asked (tenant, key) CROSS JOIN LATERAL ("
            "SELECT * FROM idempotency_keys WHERE tenant_id = asked.tenant AND key = asked.key AND recorded_at >= %b"
            " ORDER BY tenant_id, key LIMIT 1) AS k",
            ([tenant for tenant, _ in keys], [key for _, key in keys], self._keys_since),
            binary=True,
        )
        for tenant, key, fingerprint, stream_id, version, position, answer, recorded_at in curs.fetchall():
            ident = conversation_id(stream_id)
            appended = Appended(
                conversation=Conversation(id=ident, tenant=tenant, owner="", version=version, family=ident),
                version=version,
                position=position,
                recorded_at=recorded_at,
                answer=answer,
                replayed=True,
            )
            self._first_answers[tenant, key] = (fingerprint, appended)


def _first_answer(outcome: AppendOutcome) -> FirstAnswer:
    """What is kept with the command's key: its body, for the headers are made again from the events."""
    work = outcome.work
    assert outcome.last_row is not None
    assert work.idempotency is not None
    assert work.answer is not None
    outcome.answer = work.answer(_appended(outcome, position=0))
    return FirstAnswer(outcome.last_row + 1, work.idempotency.key, work.idempotency.fingerprint, outcome.answer)


def _matches(work: AppendRequest, state: Conversation) -> bool:
    """Whether `If-Match` allows the command; a deleted conversation is for the rules to refuse."""
    return work.if_match is None or state.status == "deleted" or state.version in work.if_match


def _told(outcome: AppendOutcome, positions: Sequence[int]) -> Appended | BaseException:
    if outcome.error is not None:
        return outcome.error
    if outcome.replayed is not None:
        return outcome.replayed
    if outcome.same_as is not None:
        first = outcome.same_as
        assert first.last_row is not None
        return replace(_appended(first, positions[first.last_row]), events=(), replayed=True)
    assert outcome.stream is not None
    return _appended(outcome, outcome.stream.position if outcome.last_row is None else positions[outcome.last_row])


def _appended(outcome: AppendOutcome, position: int) -> Appended:
    assert outcome.stream is not None
    return Appended(
        conversation=outcome.stream.state,
        version=outcome.stream.state.version,
        position=position,
        recorded_at=outcome.stream.recorded_at,
        events=outcome.events,
        answer=outcome.answer,
    )
