"""A client that repeats a request until the store has accepted or rejected it. An idempotency key makes this safe."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from msgspec import DecodeError

from scripts.http_connection import Answer, Connection

REQUEST_TIMEOUT_SECONDS = 30.0
RETRY_TIMEOUT_SECONDS = 120.0
MAX_RETRY_AFTER_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.05, 2.0


class RetriesExhausted(Exception):
    """No request of the load has succeeded for too long."""


class RequestRejected(Exception):
    """The store rejected the request. A retry cannot help."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the store answered {answer.status}: {_error_message(answer)}")
        self.status = answer.status


class CredentialRefused(Exception):
    """The store answered 401 or 403."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            f"the store answered {answer.status}: {_error_message(answer)} If the store needs an API key, STORE_API_KEY must be one that may write"
        )


class RetryBudget:
    """Ends a load that has had no success for too long. All clients of a load share one budget."""

    def __init__(self, seconds: float = RETRY_TIMEOUT_SECONDS) -> None:
        self._seconds = seconds
        self._last_success = time.monotonic()
        self.retries = 0

    def succeeded(self) -> None:
        self._last_success = time.monotonic()

    def failed(self, reason: str) -> None:
        """Raises RetriesExhausted if no request has succeeded for too long."""
        self.retries += 1
        if time.monotonic() - self._last_success > self._seconds:
            raise RetriesExhausted(f"no request succeeded for {self._seconds:.0f} s; the last error: {reason}")


class RetryingClient:
    def __init__(self, base_url: str, budget: RetryBudget, headers: Mapping[str, str]) -> None:
        self._base_url = base_url
        self._headers = headers
        self._budget = budget
        self._connection: Connection | None = None
        self.may_have_stored = False
        """Whether the last `post` may have stored its request."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def post(self, path: str, body: bytes, idempotency_key: str) -> Answer:
        """Raises RequestRejected, CredentialRefused, RetriesExhausted."""
        pause = _FIRST_PAUSE_SECONDS
        self.may_have_stored = False
        while True:
            retry_after = 0.0
            try:
                answer = await self._attempt(path, body, idempotency_key)
            except OSError as error:  # connection refused, reset or closed; timeout
                reason = f"{type(error).__name__}: {error}"
            else:
                if answer.status < 300:
                    self._budget.succeeded()
                    self.may_have_stored |= answer.headers.get("idempotent-replayed") != "true"
                    return answer
                if answer.status in {401, 403}:
                    raise CredentialRefused(answer)
                if not _is_retryable(answer):
                    raise RequestRejected(answer)
                reason = f"{answer.status}: {_error_message(answer)}"
                retry_after = _retry_after_seconds(answer)
            self._budget.failed(reason)
            self.may_have_stored = True
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads the retries of many clients
            await asyncio.sleep(max(retry_after, pause * jitter))
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

    async def _attempt(self, path: str, body: bytes, idempotency_key: str) -> Answer:
        if self._connection is None or not self._connection.is_open:
            self._connection = await Connection.open(self._base_url)
        headers = {**self._headers, "idempotency-key": idempotency_key}
        return await self._connection.request("POST", path, body, headers, seconds=REQUEST_TIMEOUT_SECONDS)


def _is_retryable(answer: Answer) -> bool:
    """Without the header `x-should-retry`, the status decides."""
    should_retry = answer.headers.get("x-should-retry")
    if should_retry is not None:
        return should_retry == "true"
    return answer.status in {408, 429} or answer.status >= 500


def _retry_after_seconds(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), MAX_RETRY_AFTER_SECONDS) if text.isdigit() else 0.0


def _error_message(answer: Answer) -> str:
    try:
        body: Any = answer.json()
        return str(body["error"]["message"])
    except (DecodeError, LookupError, TypeError):  # not from the store, for example the error page of a proxy
        return answer.body[:200].decode("utf-8", "replace")
