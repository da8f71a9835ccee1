"""The event log as handlers see it: `append` a command, and it is durable or refused."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from infrastructure.event_log.recorder import ConversationRecorder, Datastore
from infrastructure.event_log.work import Appended, Work
from infrastructure.event_log.writer import Writer
from infrastructure.metrics import Metrics


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class EventLog:
    """Appends for one process, on its event loop. Open it once, in a `main.py`; close it when no request is left.

    `keep_keys`: how long the first answer of an idempotency key is given again.
    """

    def __init__(
        self,
        postgres_url: str,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        keep_keys: timedelta = timedelta(days=1),
    ) -> None:
        self._datastore = Datastore(postgres_url)
        self._writer = Writer(ConversationRecorder(self._datastore), clock, metrics, keep_keys)

    def open(self) -> None:
        """Starts the writer on the running event loop; Postgres may still be away."""
        self._datastore.pool.open(wait=False)
        self._writer.start()

    async def close(self) -> None:
        """Commits what waits, then lets go of Postgres."""
        await self._writer.close()
        await asyncio.to_thread(self._datastore.close)

    async def append(self, work: Work) -> Appended:
        """Decides `work.command` on its conversation as it is at that moment, and makes the events durable.

        A caller that goes away undoes nothing. Raises Refused (the rules), VersionMismatch (`if_match`), KeyReused,
        LogBusy (nothing was appended) or LogUnavailable (says whether that is known; a repeat with the same key settles it).
        """
        return await self._writer.submit(work)
