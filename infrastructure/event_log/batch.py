"""Deciding a batch of commands on the streams they are for, while the append lock is held. The writer calls it.

What a batch needs of Postgres is read in a fixed number of round trips, however many commands it holds.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import Cursor

from domain.commands import DeleteConversation, RequestReply
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.errors import ConversationNotFound
from domain.events import Event, ReplyRequested
from infrastructure.event_log.chain import GENESIS, chain_hash
from infrastructure.event_log.codec import decode, encode
from infrastructure.event_log.recorder import ConversationRecorder, Row
from infrastructure.event_log.streams import Stream, Streams, fold
from infrastructure.event_log.work import Appended, KeyReused, VersionMismatch, Work
from infrastructure.ids import conversation_id, uuid_of


class Outcome(Struct):
    """What became of one command: its events, a first answer, or an error.

    `last_row`: where in the plan the last row of its stream stands that was there when it was decided, its own included.
    """

    work: Work
    events: tuple[Event, ...] = ()
    last_row: int | None = None
    stream: Stream | None = None
    replayed: Appended | None = None
    same_as: "Outcome | None" = None
    error: BaseException | None = None

    @property
    def keeps_answer(self) -> bool:
        """Whether its answer is kept with its key; that of a command that changed nothing too."""
        is_first = self.error is None and self.replayed is None and self.same_as is None
        return is_first and self.work.idempotency is not None and self.work.answer is not None


class Plan(Struct, eq=False):
    """A decided batch: an outcome for each command, and the rows to insert for all of them.

    `races` counts the commands whose stream another process had appended to since this one looked last.
    """

    outcomes: list[Outcome]
    rows: list[Row]
    ends: dict[UUID, Stream]
    races: int = 0

    def settle(self, positions: Sequence[int], streams: Streams) -> list[Appended | BaseException]:
        """What each caller is told, now that the rows are durable at `positions`; the cache learns the new ends."""
        last: dict[UUID, int] = {}
        for row, position in zip(self.rows, positions, strict=True):
            last[row.originator_id] = position
        for stream_id, end in self.ends.items():
            streams.remember(stream_id, replace(end, position=last[stream_id]))
        return [_told(outcome, positions) for outcome in self.outcomes]


class Deciding:
    """One batch under the lock: reads what the commands need, then decides one after the other on each other's state."""

    def __init__(self, recorder: ConversationRecorder, streams: Streams, now: datetime) -> None:
        self._recorder = recorder
        self._streams = streams
        self._now = now
        self._held: dict[UUID, Stream] = {}
        self._rows: list[Row] = []
        self._ends: dict[UUID, Stream] = {}
        self._last_rows: dict[UUID, int] = {}
        self._items: dict[tuple[UUID, str], KnownItem] = {}
        self._first_answers: dict[tuple[str, str], tuple[bytes, Appended]] = {}
        self._in_batch: dict[tuple[str, str], Outcome] = {}

    def ahead(self, batch: Sequence[Work]) -> Plan | None:
        """The batch decided on what is in memory, without a look at the log; None where that is not enough.

        It is enough for commands that touch no items and have no key, and when each of them leads to events: a refusal,
        or a command that changes nothing, may be due to a state that is old.
        """
        if any(work.idempotency is not None or work.command.touches for work in batch):
            return None
        self._hold(batch)
        outcomes = [self._outcome(work) for work in batch]
        if any(not outcome.events or isinstance(outcome.work.command, RequestReply) for outcome in outcomes):
            return None
        return Plan(outcomes, self._rows, self._ends)

    def held_versions(self, batch: Sequence[Work]) -> dict[UUID, int]:
        """The version of each stream that the batch is decided on; 0 for one that is new."""
        asked = dict.fromkeys(uuid_of(work.conversation_id) for work in batch)
        return {stream_id: held.state.version if (held := self._held.get(stream_id)) else 0 for stream_id in asked}

    def plan(self, curs: Cursor[Any], batch: Sequence[Work]) -> Plan:
        """The batch decided on what the log says, under the lock."""
        self._hold(batch)
        newer = self._recorder.select_since(curs, self.held_versions(batch))
        fold(self._held, newer)
        moved = {stream_id for stream_id, *_ in newer}
        for stream_id in moved:
            self._streams.remember(stream_id, self._held[stream_id])
        if touched := [(uuid_of(work.conversation_id), item) for work in batch for item in work.command.touches]:
            for stream_id, item_id, topic, state in self._recorder.select_items(curs, touched):
                self._know(stream_id, item_id, decode(topic, state))
        if keys := [(work.principal.tenant, work.idempotency.key) for work in batch if work.idempotency]:
            self._read_first_answers(curs, keys)
        outcomes = [self._outcome(work) for work in batch]
        races = sum(uuid_of(work.conversation_id) in moved for work in batch) if moved else 0
        return Plan(outcomes, self._rows, self._ends, races)

    def _hold(self, batch: Sequence[Work]) -> None:
        """Takes the streams of the batch to itself: memory may let go of some of them while it takes in others."""
        asked = {uuid_of(work.conversation_id) for work in batch}
        self._held = {stream_id: held for stream_id in asked if (held := self._streams.get(stream_id)) is not None}

    def _outcome(self, work: Work) -> Outcome:
        try:
            return self._first_answer(work) or self._decide(work)
        except Exception as error:  # noqa: BLE001 - one command's failure, whatever it is, is its caller's alone
            return Outcome(work, error=error)

    def _first_answer(self, work: Work) -> Outcome | None:
        """The answer that the command's key was given before, in the log or earlier in this batch."""
        if work.idempotency is None:
            return None
        key = (work.principal.tenant, work.idempotency.key)
        if (earlier := self._in_batch.get(key)) is not None:
            assert earlier.work.idempotency is not None
            if earlier.work.idempotency.fingerprint != work.idempotency.fingerprint:
                raise KeyReused
            return Outcome(work, same_as=earlier)
        if (kept := self._first_answers.get(key)) is not None:
            fingerprint, appended = kept
            if fingerprint != work.idempotency.fingerprint:
                raise KeyReused
            end = self._held.get(uuid_of(appended.conversation.id))
            if end is not None and end.state.status == "deleted" and not isinstance(work.command, DeleteConversation):
                raise ConversationNotFound(appended.conversation.id)  # what was said in it is not told again
            return Outcome(work, replayed=appended)
        return None

    def _decide(self, work: Work) -> Outcome:
        stream_id = uuid_of(work.conversation_id)
        end = self._ends.get(stream_id) or self._held.get(stream_id)
        state = end.state if end else None
        if state is not None and state.tenant != work.principal.tenant:
            raise ConversationNotFound(work.conversation_id)
        if state is not None and not _matches(work, state):
            raise VersionMismatch(state.version)
        known = {item: it for item in work.command.touches if (it := self._items.get((stream_id, item))) is not None}
        events = decide(work.conversation_id, state, work.command, known)
        outcome = Outcome(work, events=events, last_row=self._last_rows.get(stream_id), stream=end)
        if work.idempotency is not None:
            self._in_batch[work.principal.tenant, work.idempotency.key] = outcome
        if not events:
            return outcome
        recorded_at = max(self._now, end.recorded_at) if end else self._now
        chained = end.chain_hash if end else GENESIS
        rows: list[Row] = []
        for event in events:
            state = evolve(state, event)
            row = _row(stream_id, state.version, event, work, recorded_at=recorded_at, previous=chained)
            chained = row.chain_hash
            rows.append(row)
        assert state is not None
        for event in events:
            if event.row_id is not None:
                self._know(stream_id, event.row_id, event)
        self._rows += rows
        snapshotted = end.snapshotted if end else 0
        outcome.stream = self._ends[stream_id] = Stream(state, 0, recorded_at, chained, snapshotted)
        outcome.last_row = self._last_rows[stream_id] = len(self._rows) - 1
        return outcome

    def _know(self, stream_id: UUID, item_id: str, event: Event) -> None:
        known = evolve_item(self._items.get((stream_id, item_id)), event)
        if known is not None:
            self._items[stream_id, item_id] = known

    def _read_first_answers(self, curs: Cursor[Any], keys: Sequence[tuple[str, str]]) -> None:
        curs.execute(
            "SELECT k.tenant_id, k.key, k.fingerprint, k.conversation_id, k.version, k.position, k.answer, k.recorded_at"
            " FROM unnest(%b::text[], %b::text[]) AS asked (tenant, key)"
            " JOIN idempotency_keys k ON k.tenant_id = asked.tenant AND k.key = asked.key",
            ([tenant for tenant, _ in keys], [key for _, key in keys]),
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


def keep_side_rows(curs: Cursor[Any], plan: Plan, positions: Sequence[int]) -> None:
    """What is kept beside the events, in their transaction: whose a response is, and first answers of idempotency keys."""
    requested = [
        (outcome.work.principal.tenant, event.response_id, uuid_of(outcome.work.conversation_id))
        for outcome in plan.outcomes
        for event in outcome.events
        if isinstance(event, ReplyRequested)
    ]
    if requested:
        curs.execute(
            "INSERT INTO responses (tenant_id, response_id, conversation_id)"
            " SELECT * FROM unnest(%b::text[], %b::text[], %b::uuid[])",
            _columns(requested),
        )
    answered = [_first_answer(outcome, positions) for outcome in plan.outcomes if outcome.keeps_answer]
    if answered:
        curs.execute(
            "INSERT INTO idempotency_keys"
            " (tenant_id, key, fingerprint, command_id, conversation_id, version, position, answer, recorded_at)"
            " SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::uuid[], %b::uuid[], %b::bigint[], %b::bigint[],"
            " %b::bytea[], %b::timestamptz[])",
            _columns(answered),
        )


def _first_answer(outcome: Outcome, positions: Sequence[int]) -> tuple[Any, ...]:
    """The row that keeps what a command with a key is answered."""
    work = outcome.work
    told = _told(outcome, positions)
    assert isinstance(told, Appended)
    assert work.idempotency is not None
    return (
        work.principal.tenant,
        work.idempotency.key,
        work.idempotency.fingerprint,
        work.command_id,
        uuid_of(work.conversation_id),
        told.version,
        told.position,
        told.answer,
        told.recorded_at,
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def _matches(work: Work, state: Conversation) -> bool:
    """Whether `If-Match` allows the command; a deleted conversation is for the rules to refuse."""
    return work.if_match is None or state.status == "deleted" or state.version in work.if_match


def _told(outcome: Outcome, positions: Sequence[int]) -> Appended | BaseException:
    if outcome.error is not None:
        return outcome.error
    if outcome.replayed is not None:
        return outcome.replayed
    if outcome.same_as is not None:
        first = _told(outcome.same_as, positions)
        assert isinstance(first, Appended)
        return Appended(
            conversation=first.conversation,
            version=first.version,
            position=first.position,
            recorded_at=first.recorded_at,
            answer=first.answer,
            replayed=True,
        )
    assert outcome.stream is not None
    state = outcome.stream.state
    appended = Appended(
        conversation=state,
        version=state.version,
        position=outcome.stream.position if outcome.last_row is None else positions[outcome.last_row],
        recorded_at=outcome.stream.recorded_at,
        events=outcome.events,
    )
    if outcome.work.idempotency is None or outcome.work.answer is None:
        return appended
    return Appended(
        conversation=appended.conversation,
        version=appended.version,
        position=appended.position,
        recorded_at=appended.recorded_at,
        events=appended.events,
        answer=outcome.work.answer(appended),
    )


def _row(stream_id: UUID, version: int, event: Event, work: Work, *, recorded_at: datetime, previous: bytes) -> Row:
    state = encode(event)
    return Row(
        originator_id=stream_id,
        originator_version=version,
        topic=event.topic,
        state=state,
        tenant_id=work.principal.tenant,
        item_id=event.row_id,
        recorded_at=recorded_at,
        subject=work.principal.subject,
        command_id=work.command_id,
        correlation_id=work.correlation_id,
        chain_hash=chain_hash(
            previous,
            originator_id=stream_id,
            version=version,
            topic=event.topic,
            state=state,
            tenant=work.principal.tenant,
            item_id=event.row_id,
            recorded_at=recorded_at,
            subject=work.principal.subject,
            command_id=work.command_id,
            correlation_id=work.correlation_id,
        ),
    )
