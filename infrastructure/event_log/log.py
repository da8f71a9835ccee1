"""The event log as handlers see it: `append` a command, and it is durable or refused."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from eventsourcing.persistence import PersistenceError

from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.recorder import ConversationRecorder, Datastore
from infrastructure.event_log.writer import Writer
from infrastructure.observability.metrics import Metrics

SWEEP_SECONDS = 3600
SWEPT_AT_ONCE = 1000

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class EventLog:
    """Appends for one process, on its event loop. Open it once, in a `main.py`; close it when no request is left.

    `keep_keys`: how long the first answer of an idempotency key is given again. `owner`: the process, as the one that runs the
    replies which are asked for through it.
    """

    def __init__(
        self,
        postgres_url: str,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        keep_keys: timedelta = timedelta(days=1),
        owner: UUID | None = None,
    ) -> None:
        self._datastore = Datastore(postgres_url)
        self._recorder = ConversationRecorder(self._datastore)
        self._writer = Writer(self._recorder, clock, metrics, keep_keys, owner)
        self._keep_keys = keep_keys
        self._sweeping: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts the writer on the running event loop; Postgres may still be away."""
        self._datastore.pool.open(wait=False)
        self._writer.start()
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Commits what waits, then lets go of Postgres."""
        await self._writer.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.to_thread(self._datastore.close)

    async def append(self, work: AppendRequest) -> Appended:
        """Decides `work.command` on its conversation as it is at that moment, and makes the events durable.

        A caller that goes away undoes nothing. Raises Refused (the rules), VersionMismatch (`if_match`), KeyReused,
        LogBusy (nothing was appended) or LogUnavailable (says whether that is known; a repeat with the same key settles it).
        """
        return await self._writer.submit(work)

    async def _sweep(self) -> None:
        """Drops what is kept of expired keys, some at a time, now and every SWEEP_SECONDS."""
        while True:
            try:
                expired = utc_now() - self._keep_keys
                while await asyncio.to_thread(self._recorder.drop_keys, expired, SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
                    pass
            except PersistenceError as error:
                log.warning("keys_not_swept", error_type=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)
