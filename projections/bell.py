"""Rings when something may have been appended. A hint, never more: whoever waits for it also looks at intervals."""

import asyncio

import psycopg
import structlog
from psycopg import AsyncConnection, sql

from infrastructure.event_log.recorder import CHANNEL

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

log = structlog.get_logger(__name__)


class Bell:
    """Rung by Postgres's NOTIFY while `listen` runs, and by whoever calls `ring`. `rings` counts."""

    def __init__(self, postgres_url: str) -> None:
        self._postgres_url = postgres_url
        self._rung = asyncio.Event()
        self.rings = 0
        self.listening = False

    def ring(self) -> None:
        """Wakes all who wait."""
        self.rings += 1
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Returns True as soon as there are more rings than `seen`, False after `seconds`."""
        if self.rings != seen:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    async def listen(self) -> None:
        """Listens until it is cancelled, on a connection of its own that it makes again whenever it is lost."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self.listening, pause = True, _FIRST_PAUSE
                    log.info("listening")
                    self.ring()  # for what was appended before
                    async for _ in connection.notifies():
                        self.ring()
            except psycopg.Error as error:
                if self.listening:
                    log.warning("listening_interrupted", error_type=type(error).__name__)
            finally:
                self.listening = False
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _connect(self) -> AsyncConnection[tuple[object, ...]]:
        return await AsyncConnection.connect(
            self._postgres_url,
            autocommit=True,
            connect_timeout=2,
            application_name="conversation-store projector",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )
