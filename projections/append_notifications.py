"""Rings when something may have been appended. A hint, never more: whoever waits for it also looks at intervals."""

import asyncio

import psycopg
import structlog
from psycopg import AsyncConnection, sql

from infrastructure.event_log.recorder import CHANNEL

_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger(__name__)


class Signal:
    """Something that happens now and then, for any number of waiters. `count` counts."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()
        self.count = 0

    def ring(self) -> None:
        """Wakes all who wait."""
        self.count += 1
        self._happened.set()
        self._happened = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Returns True as soon as it happened more often than `seen` says, False after `seconds`."""
        if self.count != seen:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        except TimeoutError:
            return False
        return True


class AppendNotifications(Signal):
    """Rung by Postgres's NOTIFY while `listen` runs."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__()
        self._postgres_url = postgres_url
        self.listening = False

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
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

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
