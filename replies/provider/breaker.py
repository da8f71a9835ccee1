"""A circuit breaker: while the provider is down, requests fail at once instead of after their retries and timeouts.

Written here because the asyncio libraries wrap one awaited call, while a stream counts as answered at its first event, and
because none of them lets a single probe through.
"""

import time
from collections.abc import Callable
from typing import Literal

from domain.errors import ModelFailed

MAX_FAILURES = 5
FAILURE_WINDOW_SECONDS = 60.0
OPEN_SECONDS = 10.0

State = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Opens after MAX_FAILURES in a row, each at most FAILURE_WINDOW_SECONDS after the one before.

    OPEN_SECONDS later it is half open and lets one request at a time through: the first one that is answered closes it, one
    that fails opens it again. `on_state` is called with each new state.
    """

    def __init__(
        self,
        on_state: Callable[[State], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_state = on_state
        self._clock = clock
        self._state: State = "closed"
        self._failures = 0
        self._failed_at = float("-inf")

    @property
    def state(self) -> State:
        return self._state

    def begin_attempt(self) -> "Attempt":
        """Call before each request. Raises ModelFailed (`model_unavailable`) while none may be made."""
        if self._state == "closed":
            return Attempt(self, is_probe=False)
        wait = self._failed_at + OPEN_SECONDS - self._clock()
        if self._state == "half_open" or wait > 0:
            raise ModelFailed(
                "model_unavailable",
                "The model provider has been unreachable. Requests to it are paused for some seconds.",
                retry_after=max(1.0, wait),
            )
        self._set_state("half_open")
        return Attempt(self, is_probe=True)

    def record_success(self) -> None:
        self._failures = 0
        self._set_state("closed")

    def record_failure(self, *, is_probe: bool) -> None:
        now = self._clock()
        self._failures = self._failures + 1 if now - self._failed_at <= FAILURE_WINDOW_SECONDS else 1
        self._failed_at = now
        if is_probe or self._failures >= MAX_FAILURES:
            self._set_state("open")

    def release_probe(self) -> None:
        """The probe ended without a result: the next request may be one."""
        self._set_state("open")

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)


class Attempt:
    """One request. Its first result counts; call `abandoned` at the end in any case."""

    def __init__(self, breaker: CircuitBreaker, *, is_probe: bool) -> None:
        self._breaker = breaker
        self._is_probe = is_probe
        self._ended = False

    def answered(self) -> None:
        """The provider answered. A refusal counts too: the provider is up."""
        if not self._ended:
            self._ended = True
            self._breaker.record_success()

    def failed(self) -> None:
        """The provider was not reached, or did not answer."""
        if not self._ended:
            self._ended = True
            self._breaker.record_failure(is_probe=self._is_probe)

    def abandoned(self) -> None:
        """The caller left before there was a result."""
        if not self._ended:
            self._ended = True
            if self._is_probe:
                self._breaker.release_probe()
