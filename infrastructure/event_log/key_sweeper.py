"""Deletes expired idempotency keys, in a task of its own."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from eventsourcing.persistence import PersistenceError

from infrastructure.event_log.recorder import ConversationRecorder

SWEEP_INTERVAL_SECONDS = 3600
MAX_KEYS_PER_DELETE = 1000

log = structlog.get_logger(__name__)


class KeySweeper:
    """A key is deleted when it is older than `keep_keys` by our clock and by Postgres's, because one clock may be
    ahead.

    A key whose time is far in the future gets the present time. Otherwise it would be kept too long.
    """

    def __init__(self, recorder: ConversationRecorder, keep_keys: timedelta) -> None:
        self._recorder = recorder
        self._keep_keys = keep_keys
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                now, keep = datetime.now(UTC), self._keep_keys
                deleted = MAX_KEYS_PER_DELETE
                while deleted == MAX_KEYS_PER_DELETE:
                    deleted = await asyncio.to_thread(self._recorder.delete_keys, now, keep, MAX_KEYS_PER_DELETE)
                await asyncio.to_thread(self._recorder.date_future_keys, now, keep)
            except PersistenceError as error:
                log.warning("keys_not_swept", error_type=type(error).__name__)
            await asyncio.sleep(SWEEP_INTERVAL_SECONDS)
