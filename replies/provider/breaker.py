"""Stops asking a provider that is down: a request then fails at once, instead of after its retries and time-outs.

Our own: of the libraries there are, those for asyncio wrap one awaited call, and a stream has answered with its first event;
nor do they let a single probe through.
"""

import time
from collections.abc import Callable
from typing import Literal

from domain.errors import ModelFailed

FAILURES = 5
WINDOW_SECONDS = 60.0
OPEN_SECONDS = 10.0

State = Literal["closed", "open", "probing"]


class Breaker:
    """Opens after FAILURES in a row, none more than WINDOW_SECONDS after the one before. OPEN_SECONDS later one request at a time is
    let through: the first that is answered closes it, one that fails opens it again. `tell` hears each new state."""

    def __init__(
        self, tell: Callable[[State], None] = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._state: State = "closed"
        self._failures = 0
        self._failed_at = float("-inf")

    @property
    def state(self) -> State:
        return self._state

    def enter(self) -> "Attempt":
        """A request that is about to be made. Raises ModelFailed (`model_unavailable`) while it may not."""
        if self._state == "closed":
            return Attempt(self, probes=False)
        left = self._failed_at + OPEN_SECONDS - self._clock()
        if self._state == "probing" or left > 0:
            raise ModelFailed(
                "model_unavailable",
                "The model provider could not be reached for a while, and is not asked for some seconds.",
                retry_after=max(1.0, left),
            )
        self._turn("probing")
        return Attempt(self, probes=True)

    def _succeed(self) -> None:
        self._failures = 0
        self._turn("closed")

    def _fail(self, *, probed: bool) -> None:
        now = self._clock()
        self._failures = self._failures + 1 if now - self._failed_at <= WINDOW_SECONDS else 1
        self._failed_at = now
        if probed or self._failures >= FAILURES:
            self._turn("open")

    def _turn(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._tell(state)


class Attempt:
    """One request. The first of `answered` and `failed` counts; `gave_up` at the end, in any case."""

    def __init__(self, breaker: Breaker, *, probes: bool) -> None:
        self._breaker = breaker
        self._probes = probes
        self._ended = False

    def answered(self) -> None:
        """Also with a refusal: the provider is there."""
        if not self._ended:
            self._ended = True
            self._breaker._succeed()  # noqa: SLF001 - the two are one

    def failed(self) -> None:
        """It was not reached, or not answered."""
        if not self._ended:
            self._ended = True
            self._breaker._fail(probed=self._probes)  # noqa: SLF001

    def gave_up(self) -> None:
        """Whoever asked went away before anything was known; the next may probe."""
        if not self._ended:
            self._ended = True
            if self._probes:
                self._breaker._turn("open")  # noqa: SLF001
