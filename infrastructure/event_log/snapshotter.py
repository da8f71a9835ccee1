"""Writes snapshots of streams in a thread, so that no append waits for one.

A snapshot that cannot be written is dropped. Loading the stream then reads more events.
"""

import threading

import structlog
from eventsourcing.persistence import PersistenceError

from infrastructure.event_log.append_request import StreamName
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.streams import Stream, to_snapshot

MAX_QUEUED_SNAPSHOTS = 1_000
MAX_BATCH_SNAPSHOTS = 50

log = structlog.get_logger(__name__)


class Snapshotter:
    """`offer` may be called from any thread, and never waits for Postgres."""

    def __init__(self, recorder: ConversationRecorder) -> None:
        self._recorder = recorder
        self._queued: dict[StreamName, Stream] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="snapshotter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def offer(self, name: StreamName, stream: Stream) -> bool:
        """Replaces a queued snapshot of the same conversation. False if the queue is full."""
        with self._changed:
            if len(self._queued) >= MAX_QUEUED_SNAPSHOTS:
                return False
            self._queued[name] = stream
            self._changed.notify()
            return True

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._recorder.upsert_snapshots(
                    [(name, stream.state.version, to_snapshot(stream)) for name, stream in batch]
                )
            except PersistenceError as error:
                log.warning("snapshots_not_written", snapshots=len(batch), error_type=type(error).__name__)

    def _next_batch(self) -> list[tuple[StreamName, Stream]]:
        """Returns nothing after `close`, when the queue is empty."""
        with self._changed:
            while not self._queued and not self._closing:
                self._changed.wait()
            return [self._queued.popitem() for _ in range(min(MAX_BATCH_SNAPSHOTS, len(self._queued)))]
