"""Writes snapshots off the hot path: a thread that keeps the newest of what it was offered, and forgets it where it can not.

Losing a snapshot costs a cold process a longer tail; nobody waits for one, and nothing fails without it.
"""

import threading

import structlog
from eventsourcing.persistence import PersistenceError

from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.streams import Stream, to_snapshot
from infrastructure.ids import uuid_of

MAX_WAITING = 1_000
MAX_AT_ONCE = 50

log = structlog.get_logger(__name__)


class Snapshotter:
    """`offer` may be called from the writer's thread; it never waits."""

    def __init__(self, recorder: ConversationRecorder) -> None:
        self._recorder = recorder
        self._waiting: dict[str, Stream] = {}
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="snapshotter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Writes what waits, then stops the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()

    def offer(self, ident: str, stream: Stream) -> bool:
        """Whether the snapshot will be tried; not when too many wait already."""
        with self._ready:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting[ident] = stream
            self._ready.notify()
            return True

    def _run(self) -> None:
        while taken := self._take():
            try:
                self._recorder.keep_snapshots(
                    [(uuid_of(ident), stream.state.version, to_snapshot(stream)) for ident, stream in taken]
                )
            except PersistenceError as error:
                log.warning("snapshots_not_written", snapshots=len(taken), error_type=type(error).__name__)

    def _take(self) -> list[tuple[str, Stream]]:
        """What waits, at most MAX_AT_ONCE of it; nothing when the thread is closed and nothing waits."""
        with self._ready:
            while not self._waiting and not self._closing:
                self._ready.wait()
            return [self._waiting.popitem() for _ in range(min(MAX_AT_ONCE, len(self._waiting)))]
