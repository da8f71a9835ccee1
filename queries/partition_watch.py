"""Watches whether each partition is held by a living projector. For `/health/ready`."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

import psycopg

from infrastructure.event_log.append_request import LogBusy
from infrastructure.stores.heartbeats import HeartbeatWatch
from projections.views.partitions import ALL_PARTITIONS
from queries.log_access import LogAccess

INTERVAL_SECONDS: Final = 1.0
DEAD_AFTER_SECONDS: Final = 3.0
"""Longer than the 2.5 s after which another projector usually takes over (`projections/leases.py`)."""


class PartitionWatch:
    """Reads the heartbeats every second, because it takes several reads to notice a death."""

    def __init__(self, log: LogAccess, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._watch = HeartbeatWatch[UUID](DEAD_AFTER_SECONDS, INTERVAL_SECONDS, clock)
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def are_all_held(self) -> bool:
        """Raises PostgresUnavailable and LogBusy."""
        try:
            holders = await self._log.partition_holders()
        except (psycopg.Error, LogBusy):
            self._watch.start_over()
            raise
        dead = self._watch.unchanged({holder.projector: holder.beat for holder in holders})
        return {holder.partition for holder in holders if holder.projector not in dead} == set(ALL_PARTITIONS)

    async def _run(self) -> None:
        while True:
            with suppress(psycopg.Error, LogBusy):
                await self.are_all_held()
            await asyncio.sleep(INTERVAL_SECONDS)
