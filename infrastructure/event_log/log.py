"""The event log as handlers use it: `append` makes a command durable, or raises."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from eventsourcing.persistence import PersistenceError

from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.writer import APPEND_TIMEOUT_SECONDS, Writer
from infrastructure.observability.metrics import Metrics

KEY_SWEEP_INTERVAL_SECONDS = 3600
MAX_KEYS_PER_DELETE = 1000

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The current time, with its time zone."""
    return datetime.now(UTC)


class EventLog:
    """Appends for one process, on its event loop. `open` it once at the start; `close` it when no request is left.

    `keep_keys`: how long an idempotency key repeats its first answer. `owner`: the id under which this process runs replies.
    """

    def __init__(
        self,
        postgres_url: str,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        *,
        keep_keys: timedelta = timedelta(days=1),
        owner: UUID | None = None,
        append_timeout_seconds: float = APPEND_TIMEOUT_SECONDS,
        recorder_type: type[ConversationRecorder] = ConversationRecorder,
    ) -> None:
        self._datastore = Datastore(postgres_url)
        self._recorder = recorder_type(self._datastore)
        self._writer = Writer(
            self._recorder,
            clock,
            metrics,
            keep_keys=keep_keys,
            owner=owner,
            append_timeout_seconds=append_timeout_seconds,
        )
        self._keep_keys = keep_keys
        self._sweeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Starts the writer on the running event loop. Postgres may still be down."""
        self._datastore.pool.open(wait=False)
        self._writer.start()
        self._sweeper = asyncio.create_task(self._sweep_keys())

    async def close(self) -> None:
        """Commits what is queued, then disconnects."""
        await self._writer.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.to_thread(self._datastore.close)

    async def append(self, request: AppendRequest) -> Appended:
        """Decides the command on its conversation's current state, and makes its events durable.

        Cancelling it does not undo the append. Raises Refused (by the rules), VersionMismatch (`if_match`), KeyReused, LogBusy (nothing
        was appended) or LogUnavailable (its `outcome_unknown` says whether something may have been; repeat with the same key then).
        """
        return await self._writer.submit(request)

    async def _sweep_keys(self) -> None:
        """Deletes expired idempotency keys, a few at a time, now and every KEY_SWEEP_INTERVAL_SECONDS."""
        while True:
            try:
                expired = utc_now() - self._keep_keys
                deleted = MAX_KEYS_PER_DELETE
                while deleted == MAX_KEYS_PER_DELETE:
                    deleted = await asyncio.to_thread(self._recorder.delete_keys, expired, MAX_KEYS_PER_DELETE)
            except PersistenceError as error:
                log.warning("keys_not_swept", error_type=type(error).__name__)
            await asyncio.sleep(KEY_SWEEP_INTERVAL_SECONDS)
