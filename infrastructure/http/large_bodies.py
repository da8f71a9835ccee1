"""Large bodies are parsed one at a time, because each takes several times its size in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from infrastructure.http.errors import ApiError

WAIT_TIMEOUT_SECONDS: Final = 30.0


class LargeBodies:
    """The turn of one process to parse a large body. Nothing in a turn may wait for a client or a database."""

    def __init__(self, wait_timeout: float = WAIT_TIMEOUT_SECONDS) -> None:
        self._wait_timeout = wait_timeout
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """First come, first served. Raises ApiError (503) if the turn does not begin in time."""
        try:
            async with asyncio.timeout(self._wait_timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            message = "Too many large bodies wait to be read. Retry."
            raise ApiError(503, message, code="too_many_large_bodies") from error
        try:
            yield
        finally:
            self._turn.release()
