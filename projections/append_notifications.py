"""Wakes the view updaters when events were appended, by Postgres's LISTEN. Only a hint: the waiters poll the log as well."""

import asyncio

import psycopg
import structlog
from psycopg import AsyncConnection, sql

from infrastructure.event_log.recorder import CHANNEL

_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.05, 2.0

log = structlog.get_logger(__name__)


class Signal:
    """A repeated notification for any number of waiters. `count` is how often it came."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()
        self.count = 0

    def notify(self) -> None:
        """Wakes all waiters."""
        self.count += 1
        self._notified.set()
        self._notified = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Returns True as soon as `count` differs from `seen`, False after `seconds`."""
        if self.count != seen:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        except TimeoutError:
            return False
        return True


class AppendNotifications(Signal):
    """Notified by Postgres's NOTIFY while `listen` runs."""

    def __init__(self, postgres_url: str) -> None:
        super().__init__()
        self._postgres_url = postgres_url
        self.listening = False

    async def listen(self) -> None:
        """Listens until cancelled, on its own connection. Reconnects whenever that is lost."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self.listening, pause = True, _FIRST_PAUSE
                    log.info("append_listener_connected")
                    self.notify()  # for events appended before the LISTEN
                    async for _ in connection.notifies():
                        self.notify()
            except psycopg.Error as error:
                if self.listening:
                    log.warning("append_listener_disconnected", error_type=type(error).__name__)
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
