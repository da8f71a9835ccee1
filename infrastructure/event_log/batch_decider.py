"""Decides a batch of commands on cached streams, or on the log."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Cursor

from domain.access import check_allowed
from domain.commands import AppendItems, CompleteReply, StopReply
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.events import (
    REPLY_ENDS,
    ConversationDeleted,
    ConversationStarted,
    Event,
    ItemAppended,
    PathBranch,
    ReplyQueued,
    ReplyRequested,
)
from domain.named_contents import named_contents
from infrastructure.event_log.append_request import AppendRequest, StreamName, VersionMismatch, independent_of
from infrastructure.event_log.batch_keys import BatchKeys
from infrastructure.event_log.batch_plan import AppendOutcome, BatchPlan
from infrastructure.event_log.chain import GENESIS
from infrastructure.event_log.codec import UnreadableEvent, decode, encode
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import NO_ROWS, Row, StreamEnd, chained_row
from infrastructure.event_log.stream_loader import BatchStreams, StreamsLost, read_on
from infrastructure.event_log.streams import Stream, StreamCache
from infrastructure.event_log.write import ContentRef, PrefixRow, Write
from infrastructure.ids import uuid_of

_REPLY_STARTS = frozenset({ReplyQueued.topic, ReplyRequested.topic})
_REPLY_ENDS = frozenset(end.topic for end in REPLY_ENDS)
_WITH_PREFIXES = (AppendItems, CompleteReply, StopReply)


class BatchDecider:
    """Decides each command on the state after the commands before it. Use one decider per batch.

    A key stored before `keys_valid_since` has expired. `owner`: the process that runs the batch's replies.
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
        self._before: dict[StreamName, Stream] = {}
        self._after: dict[StreamName, Stream] = {}
        """The streams that the batch changes."""
        self._rows: list[Row] = []
        self._prefixes: list[PrefixRow] = []
        self._content_refs: list[ContentRef] = []
        self._forks: list[tuple[int, UUID]] = []
        self._last_rows: dict[StreamName, int] = {}
        self._touched: set[tuple[StreamName, str]] = set()
        """(stream, row key) of each item, response or feedback that the rules need. `_items` has the state of those that exist."""
        self._items: dict[tuple[StreamName, str], KnownItem] = {}
        self._keys = BatchKeys(recorder, keys_valid_since)
        self._unreadable: Mapping[StreamName, UnreadableEvent] = {}

    def decide_optimistically(
        self, batch: Sequence[AppendRequest], streams: Mapping[StreamName, Stream]
    ) -> BatchPlan | None:
        """Decides on the known `streams` alone. None if all requests need the log.

        A request needs the log if its rules need an item's state. It also needs the log if it is refused or changes
        nothing, because the known stream may be old. Requests that depend on such a request are left out too.
        """
        if for_lock := [request for request in batch if request.command.row_keys]:
            batch = independent_of(for_lock, batch)
        self._take(batch, streams)
        outcomes = [self._outcome(request) for request in batch]
        undecided = [outcome.request for outcome in outcomes if not outcome.events and outcome.duplicate_of is None]
        if undecided:
            decider = BatchDecider(
                self._recorder, self._cache, now=self._now, keys_valid_since=self._keys_valid_since, owner=self._owner
            )
            return decider.decide_optimistically(independent_of(undecided, batch), streams)
        return self._plan(outcomes) if outcomes else None

    def decide_on_log(self, curs: Cursor[Any], batch: Sequence[AppendRequest], streams: BatchStreams) -> BatchPlan:
        """Raises StreamsLost if the log has lost the last rows of known streams.

        Under the append lock, the plan can be appended. Without the lock, an outcome is final if it appends nothing and
        depends on no append.
        """
        unreadable = streams.unreadable
        self._take(batch, streams.streams)
        cached = dict(self._before)
        names = [name for name in dict.fromkeys(request.stream_name for request in batch) if name not in unreadable]
        read = read_on(self._recorder, curs, names, self._before)
        if read.lost:
            raise StreamsLost({name: cached[name] for name in read.lost if name in cached})
        self._unreadable = {**unreadable, **read.unreadable}
        moved = {name for name, stream in self._before.items() if stream is not cached.get(name)}
        for name in moved:
            self._cache.put(name, self._before[name])
        self._touched = {(request.stream_name, item) for request in batch for item in request.command.row_keys}
        if self._touched:
            self._read_items(curs)
        self._keys.read_stored(curs, batch)
        outcomes = [self._outcome(request) for request in batch]
        races = sum(request.stream_name in moved for request in batch) if moved else 0
        return self._plan(outcomes, races)

    def _take(self, batch: Sequence[AppendRequest], streams: Mapping[StreamName, Stream]) -> None:
        names = {request.stream_name for request in batch}
        self._before = {name: stream for name, stream in streams.items() if name in names}

    def _read_items(self, curs: Cursor[Any]) -> None:
        for name, row_key, topic, state in self._recorder.select_items(curs, list(self._touched)):
            self._evolve_item(name, row_key, decode(topic, state))

    def _outcome(self, request: AppendRequest) -> AppendOutcome:
        try:
            return self._keys.first_use(request, self._before) or self._decide(request)
        except Exception as error:  # noqa: BLE001 - one command's failure must not fail the others
            return AppendOutcome(request, error=error)

    def _decide(self, request: AppendRequest) -> AppendOutcome:
        conversation_id, name = request.conversation_id, request.stream_name
        if (problem := self._unreadable.get(name)) is not None:
            raise problem
        stream = self._after.get(name) or self._before.get(name)
        state = stream.state if stream else None
        if state is not None:
            check_allowed(state, request.command, request.principal.actor)
        if state is not None and not _version_matches(request, state):
            raise VersionMismatch(state.version)
        items = {
            row_key: item
            for row_key in request.command.row_keys
            if (item := self._items.get((name, row_key))) is not None
        }
        events = decide(conversation_id, state, request.command, items)
        outcome = AppendOutcome(request, events, self._last_rows.get(name), stream)
        if events:
            self._add_rows(request, stream, events)
            outcome.stream = self._after[name]
            outcome.last_row = self._last_rows[name]
        if outcome.stores_key:
            self._keys.add(outcome)
        return outcome

    def _add_rows(self, request: AppendRequest, stream: Stream | None, events: Sequence[Event]) -> None:
        name = request.stream_name
        state = stream.state if stream else None
        chain_hash = stream.chain_hash if stream else GENESIS
        recorded_at = max(self._now, stream.recorded_at) if stream else self._now
        rows: list[Row] = []
        for event in events:
            state = evolve(state, event)
            row = chained_row(
                chain_hash,
                originator_id=uuid_of(request.conversation_id),
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
                    self._evolve_item(name, event.row_key, event)
        # Last, so that a command that fails adds no rows.
        if isinstance(request.command, _WITH_PREFIXES) and request.command.prefixes:
            self._prefixes += _prefix_rows(request.command, events, len(self._rows) + 1, state)
        self._content_refs += [
            ContentRef(row, named)
            for row, event in enumerate(events, len(self._rows) + 1)
            for named in named_contents(event)
        ]
        self._forks += [
            (row, uuid_of(event.forked_from.conversation_id))
            for row, event in enumerate(events, len(self._rows) + 1)
            if isinstance(event, ConversationStarted) and event.forked_from is not None
        ]
        self._rows += rows
        self._last_rows[name] = len(self._rows) - 1
        self._after[name] = Stream(state, 0, recorded_at, chain_hash, snapshotted=stream.snapshotted if stream else 0)

    def _evolve_item(self, name: StreamName, row_key: str, event: Event) -> None:
        if (name, row_key) not in self._touched:
            return
        item = evolve_item(self._items.get((name, row_key)), event)
        if item is None:
            self._items.pop((name, row_key), None)
        else:
            self._items[name, row_key] = item

    def _plan(self, outcomes: list[AppendOutcome], races: int = 0) -> BatchPlan:
        topics = {row.topic for row in self._rows}
        deletes = ConversationDeleted.topic in topics
        write = Write(
            rows=self._rows,
            expected_ends=self._expected_ends(),
            started_replies=[] if topics.isdisjoint(_REPLY_STARTS) else self._rows_of(_REPLY_STARTS),
            owner=self._owner,
            ended_replies=[] if topics.isdisjoint(_REPLY_ENDS) else self._rows_of(_REPLY_ENDS),
            deleted_streams=[row.originator_id for row in self._rows if row.topic == ConversationDeleted.topic]
            if deletes
            else [],
            idempotency=[outcome.idempotency_record() for outcome in outcomes if outcome.stores_key],
            keys_valid_since=self._keys_valid_since,
            prefixes=self._prefixes,
            content_refs=self._content_refs,
            forks=self._forks,
        )
        return BatchPlan(outcomes, write, self._after, self._last_rows, races)

    def _rows_of(self, topics: frozenset[str]) -> list[tuple[int, str]]:
        """Pairs of row number (from 1) and response id."""
        return [(number, row.item_id or "") for number, row in enumerate(self._rows, 1) if row.topic in topics]

    def _expected_ends(self) -> dict[UUID, StreamEnd]:
        """The ends of the streams before the batch."""
        return {uuid_of(name[1]): stream.end if (stream := self._before.get(name)) else NO_ROWS for name in self._after}


def _prefix_rows(
    command: AppendItems | CompleteReply | StopReply, events: Sequence[Event], first_row: int, state: Conversation
) -> list[PrefixRow]:
    """Leaves out prefixes that may contain a retracted item. `state`: the state after the events."""
    leaves = state.path[:-1]  # unless the items open a branch, they are on the last branch of the active path
    appended: dict[str, tuple[int, int, int, tuple[PathBranch, ...]]] = {}
    for row, event in enumerate(events, first_row):
        if isinstance(event, ItemAppended):
            leaves = event.leaves or leaves
            appended[event.item_id] = (row, event.depth, event.branch, leaves)
    return [
        PrefixRow(*appended[prefix.item_id], prefix)
        for prefix in command.prefixes
        if prefix.item_id in appended and (prefix.read_version is None or prefix.read_version >= state.retracted_at)
    ]


def _version_matches(request: AppendRequest, state: Conversation) -> bool:
    """A deleted conversation always matches, because the domain's rules refuse or allow the command."""
    return request.if_match is None or state.status == "deleted" or state.version in request.if_match
