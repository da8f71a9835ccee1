"""Decides a batch of commands: optimistically on cached streams, or under the append lock on what the log says.

Under the lock, a batch reads from Postgres in a fixed number of round trips, however many commands it has.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Cursor

from domain.commands import DeleteConversation
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.errors import ConversationNotFound
from domain.events import REPLY_ENDS, ConversationDeleted, Event, ReplyRequested
from infrastructure.event_log.append_request import Appended, AppendRequest, IdempotencyKey, KeyReused, VersionMismatch
from infrastructure.event_log.batch_plan import AppendOutcome, BatchPlan
from infrastructure.event_log.chain import GENESIS
from infrastructure.event_log.codec import decode, encode
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import Row, chained_row
from infrastructure.event_log.streams import Stream, StreamCache, apply_rows
from infrastructure.event_log.write import Write
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of

_REPLY_STARTS = frozenset({ReplyRequested.topic})
_REPLY_ENDS = frozenset(end.topic for end in REPLY_ENDS)


class BatchDecider:
    """Use one per batch. It decides the commands in order, each on the state after the ones before it.

    A key stored before `keys_valid_since` has expired: it counts as new. `owner`: the process that runs the replies of this batch.
    """

    def __init__(
        self,
        recorder: ConversationRecorder,
        cache: StreamCache,
        *,
        now: datetime,
        keys_valid_since: datetime,
        owner: UUID | None = None,
    ) -> None:
        self._recorder = recorder
        self._cache = cache
        self._now = now
        self._keys_valid_since = keys_valid_since
        self._owner = owner
        self._before: dict[str, Stream] = {}
        """The streams before the batch."""
        self._after: dict[str, Stream] = {}
        """The streams that the batch changes, after it."""
        self._rows: list[Row] = []
        self._last_rows: dict[str, int] = {}
        """The index in `_rows` of each stream's last row."""
        self._touched: set[tuple[str, str]] = set()
        """(conversation id, item id) of each item whose state a command's rules need. `_items` has the state of those that exist."""
        self._items: dict[tuple[str, str], KnownItem] = {}
        self._stored_keys: dict[tuple[str, str], tuple[bytes, Appended]] = {}
        self._keys_in_batch: dict[tuple[str, str], AppendOutcome] = {}

    def decide_optimistically(self, batch: Sequence[AppendRequest]) -> BatchPlan | None:
        """Decides on cached streams alone. None if that is not enough.

        It is not enough for a command whose rules need the state of an item, nor when a command is refused or changes nothing: the cached
        stream may be old. `append_at_once` checks that no idempotency key is in use.
        """
        if any(request.command.row_keys for request in batch):
            return None
        self._read_cache(batch)
        outcomes = [self._outcome(request) for request in batch]
        if any(not outcome.events and outcome.duplicate_of is None for outcome in outcomes):
            return None
        return self._plan(batch, outcomes)

    def decide_under_lock(self, curs: Cursor[Any], batch: Sequence[AppendRequest]) -> BatchPlan:
        """Decides on what the log says. `curs` holds the append lock."""
        self._read_cache(batch)
        newer = self._recorder.select_since(curs, self._expected_versions(batch))
        apply_rows(self._before, newer)
        moved = {conversation_id_of(stream_id) for stream_id, *_ in newer}
        for conversation_id in moved:
            self._cache.put(conversation_id, self._before[conversation_id])
        self._touched = {(request.conversation_id, item) for request in batch for item in request.command.row_keys}
        if self._touched:
            self._read_items(curs)
        if keys := [(request.principal.tenant, request.idempotency.key) for request in batch if request.idempotency]:
            self._read_stored_keys(curs, keys)
        outcomes = [self._outcome(request) for request in batch]
        races = sum(request.conversation_id in moved for request in batch) if moved else 0
        return self._plan(batch, outcomes, races)

    def _read_cache(self, batch: Sequence[AppendRequest]) -> None:
        """Copies the batch's streams from the cache, which may evict some of them meanwhile."""
        for request in batch:
            if (stream := self._cache.get(request.conversation_id)) is not None:
                self._before[request.conversation_id] = stream

    def _read_items(self, curs: Cursor[Any]) -> None:
        items = [(uuid_of(conversation_id), item) for conversation_id, item in self._touched]
        for stream_id, row_key, topic, state in self._recorder.select_items(curs, items):
            self._evolve_item(conversation_id_of(stream_id), row_key, decode(topic, state))

    def _read_stored_keys(self, curs: Cursor[Any], keys: Sequence[tuple[str, str]]) -> None:
        stored = self._recorder.select_first_answers(curs, keys, self._keys_valid_since)
        for tenant, key, fingerprint, stream_id, version, position, answer, recorded_at in stored:
            conversation_id = conversation_id_of(stream_id)
            appended = Appended(
                conversation=Conversation(
                    id=conversation_id, tenant=tenant, owner="", version=version, family=conversation_id
                ),
                version=version,
                position=position,
                recorded_at=recorded_at,
                answer=answer,
                replayed=True,
            )
            self._stored_keys[tenant, key] = (fingerprint, appended)

    def _outcome(self, request: AppendRequest) -> AppendOutcome:
        try:
            if request.idempotency is not None:
                if (repeated := self._repeated(request, request.idempotency)) is not None:
                    return repeated
            return self._decide(request)
        except Exception as error:  # noqa: BLE001 - one command's failure must not fail the others
            return AppendOutcome(request, error=error)

    def _repeated(self, request: AppendRequest, idempotency: IdempotencyKey) -> AppendOutcome | None:
        """The outcome if the key was used before, in the log or in this batch; else None. Raises KeyReused."""
        key = (request.principal.tenant, idempotency.key)
        if (earlier := self._keys_in_batch.get(key)) is not None:
            assert earlier.request.idempotency is not None
            if earlier.request.idempotency.fingerprint != idempotency.fingerprint:
                raise KeyReused
            return AppendOutcome(request, duplicate_of=earlier)
        if (stored := self._stored_keys.get(key)) is not None:
            fingerprint, appended = stored
            if fingerprint != idempotency.fingerprint:
                raise KeyReused
            stream = self._before.get(appended.conversation.id)
            is_deleted = stream is not None and stream.state.status == "deleted"
            if is_deleted and not isinstance(request.command, DeleteConversation):
                raise ConversationNotFound(appended.conversation.id)  # the stored answer may repeat deleted content
            return AppendOutcome(request, replayed=appended)
        return None

    def _decide(self, request: AppendRequest) -> AppendOutcome:
        conversation_id = request.conversation_id
        stream = self._after.get(conversation_id) or self._before.get(conversation_id)
        state = stream.state if stream else None
        if state is not None and state.tenant != request.principal.tenant:
            raise ConversationNotFound(conversation_id)
        if state is not None and not _version_matches(request, state):
            raise VersionMismatch(state.version)
        items = {
            row_key: item
            for row_key in request.command.row_keys
            if (item := self._items.get((conversation_id, row_key))) is not None
        }
        events = decide(conversation_id, state, request.command, items)
        outcome = AppendOutcome(request, events, self._last_rows.get(conversation_id), stream)
        if events:
            self._add_rows(request, stream, events)
            outcome.stream = self._after[conversation_id]
            outcome.last_row = self._last_rows[conversation_id]
        if outcome.stores_key:
            assert request.idempotency is not None
            self._keys_in_batch[request.principal.tenant, request.idempotency.key] = outcome
        return outcome

    def _add_rows(self, request: AppendRequest, stream: Stream | None, events: Sequence[Event]) -> None:
        """Adds the rows of a command's events, and updates its stream."""
        conversation_id = request.conversation_id
        state = stream.state if stream else None
        chain_hash = stream.chain_hash if stream else GENESIS
        recorded_at = max(self._now, stream.recorded_at) if stream else self._now
        rows: list[Row] = []
        for event in events:
            state = evolve(state, event)
            row = chained_row(
                chain_hash,
                originator_id=uuid_of(conversation_id),
                version=state.version,
                topic=event.topic,
                state=encode(event),
                tenant=request.principal.tenant,
                item_id=event.row_key,
                recorded_at=recorded_at,
                subject=request.principal.subject,
                command_id=request.command_id,
                correlation_id=request.correlation_id,
            )
            chain_hash = row.chain_hash
            rows.append(row)
        assert state is not None
        if self._touched:
            for event in events:
                if event.row_key is not None:
                    self._evolve_item(conversation_id, event.row_key, event)
        # Last, so that a command that fails adds no rows.
        self._rows += rows
        self._last_rows[conversation_id] = len(self._rows) - 1
        self._after[conversation_id] = Stream(
            state, 0, recorded_at, chain_hash, snapshotted=stream.snapshotted if stream else 0
        )

    def _evolve_item(self, conversation_id: str, row_key: str, event: Event) -> None:
        if (conversation_id, row_key) not in self._touched:
            return
        item = evolve_item(self._items.get((conversation_id, row_key)), event)
        if item is not None:
            self._items[conversation_id, row_key] = item

    def _plan(self, batch: Sequence[AppendRequest], outcomes: list[AppendOutcome], races: int = 0) -> BatchPlan:
        topics = {row.topic for row in self._rows}
        deletes = ConversationDeleted.topic in topics
        write = Write(
            rows=self._rows,
            expected_versions=self._expected_versions(batch),
            started_replies=[] if topics.isdisjoint(_REPLY_STARTS) else self._rows_of(_REPLY_STARTS),
            owner=self._owner,
            ended_replies=[] if topics.isdisjoint(_REPLY_ENDS) else self._rows_of(_REPLY_ENDS),
            deleted_streams=[row.originator_id for row in self._rows if row.topic == ConversationDeleted.topic]
            if deletes
            else [],
            idempotency=[outcome.idempotency_record() for outcome in outcomes if outcome.stores_key],
            keys_valid_since=self._keys_valid_since,
        )
        return BatchPlan(outcomes, write, self._after, self._last_rows, races)

    def _rows_of(self, topics: frozenset[str]) -> list[tuple[int, str]]:
        """(row number from 1, response id) of the rows with one of these topics."""
        return [(number, row.item_id or "") for number, row in enumerate(self._rows, 1) if row.topic in topics]

    def _expected_versions(self, batch: Sequence[AppendRequest]) -> dict[UUID, int]:
        """The version that each stream of the batch is decided on; 0 for a new one."""
        conversation_ids = dict.fromkeys(request.conversation_id for request in batch)
        return {
            uuid_of(conversation_id): stream.state.version if (stream := self._before.get(conversation_id)) else 0
            for conversation_id in conversation_ids
        }


def _version_matches(request: AppendRequest, state: Conversation) -> bool:
    """Whether `If-Match` allows the command. The domain's rules refuse commands on a deleted conversation."""
    return request.if_match is None or state.status == "deleted" or state.version in request.if_match
