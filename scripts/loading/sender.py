"""One connection to the store that does not take no for an answer: a request is sent until the store has settled it.

Every request has an `Idempotency-Key`: whatever was lost on the way (the request, the answer, the process that had it), sending it
again stores it once.
"""

import asyncio
import random
import time
from typing import Any

from msgspec import DecodeError

from scripts.keepalive import Answer, Connection

REQUEST_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
_FIRST_PAUSE, _MAX_PAUSE_SECONDS = 0.05, 2.0


class GaveUp(Exception):
    """The store has not taken anything for PATIENCE_SECONDS."""


class RefusedForGood(Exception):
    """The store does not want this request, and never will."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the store answered {answer.status}: {_message(answer)}")
        self.status = answer.status


class Patience:
    """When the store last took something, for all connections of a load together."""

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self._seconds = seconds
        self._last = time.monotonic()
        self.retries = 0

    def rewarded(self) -> None:
        self._last = time.monotonic()

    def tried(self, why: str) -> None:
        """Raises GaveUp when it is at its end."""
        self.retries += 1
        if time.monotonic() - self._last > self._seconds:
            raise GaveUp(f"the store has taken nothing for {self._seconds:.0f} s; the last attempt: {why}")


class Sender:
    """Sends one request at a time."""

    def __init__(self, base_url: str, patience: Patience) -> None:
        self._base_url = base_url
        self._patience = patience
        self._connection: Connection | None = None
        self.stored = False
        """Whether the last request may have been what stored it: a replay after a lost answer may be its own."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def post(self, path: str, body: bytes, idempotency_key: str) -> Answer:
        """The store's answer to this, once it has one. Raises RefusedForGood, GaveUp."""
        pause = _FIRST_PAUSE
        self.stored = False
        while True:
            least = 0.0
            try:
                answer = await self._attempt(path, body, idempotency_key)
            except OSError as error:  # refused, reset, ended half-way, timed out
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.status < 300:
                    self._patience.rewarded()
                    self.stored |= answer.headers.get("idempotent-replayed") != "true"
                    return answer
                if not _may_pass(answer):
                    raise RefusedForGood(answer)
                why = f"{answer.status}: {_message(answer)}"
                least = _seconds(answer.headers.get("retry-after", ""))
            self._patience.tried(why)
            self.stored = True
            await asyncio.sleep(max(least, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - so that not all come at once
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

    async def _attempt(self, path: str, body: bytes, idempotency_key: str) -> Answer:
        if self._connection is None or not self._connection.is_open:
            self._connection = await Connection.open(self._base_url)
        headers = {"idempotency-key": idempotency_key}
        return await self._connection.request("POST", path, body, headers, seconds=REQUEST_SECONDS)


def _may_pass(answer: Answer) -> bool:
    """Whether the same request may be answered otherwise later; where the store does not say, its status does."""
    said = answer.headers.get("x-should-retry")
    if said is not None:
        return said == "true"
    return answer.status in {408, 429} or answer.status >= 500


def _seconds(text: str) -> float:
    return min(float(text), 10.0) if text.isdigit() else 0.0


def _message(answer: Answer) -> str:
    try:
        body: Any = answer.json()
        return str(body["error"]["message"])
    except (DecodeError, LookupError, TypeError):  # a proxy's own page
        return answer.body[:200].decode("utf-8", "replace")
