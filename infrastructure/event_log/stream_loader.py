"""Reads streams from the log, and finds streams whose last known row the log has lost.

The log moves back if a backup is restored, a lagging replica takes over, or somebody removes rows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace
from psycopg import Cursor
from psycopg.rows import tuple_row

from domain.conversation import evolve
from infrastructure.event_log.append_request import StreamName
from infrastructure.event_log.codec import UnreadableEvent, decode
from infrastructure.event_log.recorder import ConversationRecorder, LogRow
from infrastructure.event_log.streams import Stream, StreamCache, from_snapshot
from infrastructure.observability.metrics import Metrics

MAX_PAGE_ROWS = 2_000
MAX_PAGE_BYTES = 16 * 1024 * 1024

log = structlog.get_logger(__name__)


class StreamsLost(Exception):
    """The log does not have the last known rows of these streams."""

    def __init__(self, streams: Mapping[StreamName, Stream]) -> None:
        super().__init__("The log has lost the last rows of streams.")
        self.streams = streams


class BatchStreams(Struct, frozen=True):
    """The streams for one batch. The cache may evict a stream before the batch is decided."""

    streams: Mapping[StreamName, Stream] = {}
    unreadable: Mapping[StreamName, UnreadableEvent] = {}


class StreamsRead(Struct):
    """What `read_on` could not read. `lost`: the log does not have the row that the known stream ends with. `unreadable`: also if the first event is missing."""

    lost: set[StreamName] = set()
    unreadable: dict[StreamName, UnreadableEvent] = {}

    def __contains__(self, name: StreamName) -> bool:
        return name in self.lost or name in self.unreadable


def read_on(
    recorder: ConversationRecorder, curs: Cursor[Any], names: Sequence[StreamName], streams: dict[StreamName, Stream]
) -> StreamsRead:
    """Applies later rows of the log to `streams`. A name that `streams` lacks is read from its first row.

    Removes from `streams` the streams that could not be read.
    """
    read = StreamsRead()
    remaining = list(names)
    while remaining:
        known_versions = {name: stream.state.version if (stream := streams.get(name)) else 0 for name in remaining}
        page = recorder.select_from(curs, known_versions, MAX_PAGE_ROWS, MAX_PAGE_BYTES)
        rows: defaultdict[StreamName, list[LogRow]] = defaultdict(list)
        for row in page:
            rows[row.stream].append(row)
        is_cut = len(page) == MAX_PAGE_ROWS or sum(len(row.state or b"") for row in page) >= MAX_PAGE_BYTES
        last = remaining.index(page[-1].stream) if is_cut else len(remaining) - 1
        for name in remaining[: last + 1]:
            _apply(name, rows[name], streams, read)
        # The last stream of a page may have more rows.
        remaining = [left for left in remaining[last:] if left not in read] if is_cut else []
    return read


def _apply(name: StreamName, rows: Sequence[LogRow], streams: dict[StreamName, Stream], read: StreamsRead) -> None:
    stream = streams.get(name)
    if stream is not None:
        if not rows or (rows[0].version, rows[0].chain_hash) != stream.end:
            read.lost.add(name)
            del streams[name]
            return
        rows = rows[1:]
    try:
        for row in rows:
            stream = streams[name] = _after(stream, row)
    except UnreadableEvent as error:
        read.unreadable[name] = error
        streams.pop(name, None)


def _after(stream: Stream | None, row: LogRow) -> Stream:
    """Raises UnreadableEvent."""
    assert row.state is not None
    event = decode(row.topic, row.state)
    try:
        state = evolve(stream.state if stream else None, event)
    except ValueError as error:
        raise UnreadableEvent(str(error)) from error
    if state.version != row.version:
        # Earlier rows were removed from the log. The stream continues with this row's version.
        state = replace(state, version=row.version)
    return Stream(state, row.position, row.recorded_at, row.chain_hash, stream.snapshotted if stream else 0)


class StreamLoader:
    """Its methods block."""

    def __init__(self, recorder: ConversationRecorder, cache: StreamCache, metrics: Metrics) -> None:
        self._recorder = recorder
        self._cache = cache
        self._metrics = metrics

    def load(self, names: Sequence[StreamName]) -> BatchStreams:
        """Reads streams from snapshots and later rows. Leaves out streams that do not exist."""
        with self._recorder.datastore.get_connection() as connection:
            curs = connection.cursor(row_factory=tuple_row)
            stored = self._recorder.select_snapshots(curs, names)
            snapshots = {name: stream for name, state in stored if (stream := from_snapshot(state)) is not None}
            streams = dict(snapshots)
            read = read_on(self._recorder, curs, names, streams)
            unreadable = read.unreadable
            if read.lost:
                self._recorder.delete_snapshots(curs, read.lost)
                lost = {name: snapshots[name] for name in read.lost & snapshots.keys()}
                self._report("snapshot_differs_from_log", "snapshot", curs, lost)
                # A stream that is lost again stays uncached, and is read under the append lock.
                unreadable |= read_on(self._recorder, curs, list(read.lost), streams).unreadable
        for name, stream in streams.items():
            self._cache.put(name, stream)
        return BatchStreams(streams, unreadable)

    def drop(self, curs: Cursor[Any], lost: Mapping[StreamName, Stream]) -> None:
        """Removes the streams from the cache, and reports them."""
        for name in lost:
            self._cache.remove(name)
        self._report("log_moved_back", "memory", curs, lost)

    def _report(self, event: str, source: str, curs: Cursor[Any], lost: Mapping[StreamName, Stream]) -> None:
        self._metrics.streams_lost.labels(source).inc(len(lost))
        log_versions = self._recorder.select_last_versions(curs, lost)
        for name, stream in lost.items():
            log.error(
                event,
                conversation_id=stream.state.id,
                known_version=stream.state.version,
                log_version=log_versions.get(name, 0),
            )
