"""Circuit breakers: while a model is down, requests to it fail at once instead of after their retries and timeouts.

Each model has its own breaker, because a provider may serve one model and fail with another.

No library is used. The libraries for asyncio wrap one awaited call, but here a stream counts as answered at its first event with
content. Also, none of them lets only one probe through.
"""

import time
from collections.abc import Callable
from functools import partial

import structlog

from domain.errors import ModelFailed

MAX_FAILURES = 5
FAILURE_WINDOW_SECONDS = 60.0
OPEN_SECONDS = 10.0

PROBE_SECONDS = 3.0
"""How long a probe without a result keeps other requests away."""

MAX_MODELS = 256
"""How many breakers are kept: clients may send any name as a model."""

log = structlog.get_logger(__name__)


class CircuitBreakers:
    """The breakers of the MAX_MODELS models that were used last. `on_change` is called with the number of open breakers
    when it may have changed.
    """

    def __init__(
        self,
        on_change: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._breakers: dict[str, CircuitBreaker] = {}
        """The model that was used last comes last."""

    def __len__(self) -> int:
        return len(self._breakers)

    def begin_attempt(self, model: str) -> "Attempt":
        """Call before each request. Raises ModelFailed (`model_unavailable`) while no request may be sent to this model."""
        breaker = self._breakers.pop(model, None) or CircuitBreaker(partial(self._changed, model), self._clock)
        self._breakers[model] = breaker
        if len(self._breakers) > MAX_MODELS:
            del self._breakers[next(iter(self._breakers))]
            self._count_open()
        return breaker.begin_attempt()

    def _changed(self, model: str, is_open: bool) -> None:
        log.warning("model_circuit_breaker", model=model, state="open" if is_open else "closed")
        self._count_open()

    def _count_open(self) -> None:
        self._on_change(sum(breaker.is_open for breaker in self._breakers.values()))


class CircuitBreaker:
    """Opens after MAX_FAILURES failures in a row, each at most FAILURE_WINDOW_SECONDS after the one before.

    OPEN_SECONDS later, the breaker lets one request through as a probe. While the probe has no result, another probe is let through every
    PROBE_SECONDS. The first request that is answered closes the breaker. If the newest probe fails, the breaker stays open for OPEN_SECONDS
    more. While it is open, the failures of all other requests change nothing. `on_change` is called with True when the breaker opens, and
    with False when it closes.
    """

    def __init__(
        self,
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._is_open = False
        self._failures = 0
        self._failed_at = float("-inf")
        self._next_probe_at = float("-inf")
        self._probe: Attempt | None = None
        """The newest probe."""

    @property
    def is_open(self) -> bool:
        return self._is_open

    def begin_attempt(self) -> "Attempt":
        """Call before each request. Raises ModelFailed (`model_unavailable`) while no request may be sent."""
        attempt = Attempt(self)
        if self._is_open:
            wait = self._next_probe_at - self._clock()
            if wait > 0:
                raise ModelFailed(
                    "model_unavailable",
                    "The model provider has failed several times in a row. Requests to this model are paused for some seconds.",
                    retry_after=max(1.0, wait),
                )
            self._probe, self._next_probe_at = attempt, self._clock() + PROBE_SECONDS
        return attempt

    def record_success(self) -> None:
        self._failures = 0
        self._probe = None
        self._set_open(is_open=False)

    def record_failure(self, attempt: "Attempt") -> None:
        now = self._clock()
        if self._is_open and attempt is not self._probe:
            return
        self._failures = self._failures + 1 if now - self._failed_at <= FAILURE_WINDOW_SECONDS else 1
        self._failed_at = now
        if self._is_open or self._failures >= MAX_FAILURES:
            self._probe, self._next_probe_at = None, now + OPEN_SECONDS
            self._set_open(is_open=True)

    def abandon(self, attempt: "Attempt") -> None:
        """Records that the attempt ended without a result. If it was the newest probe, the next request becomes a probe."""
        if attempt is self._probe:
            self._probe, self._next_probe_at = None, self._clock()

    def _set_open(self, *, is_open: bool) -> None:
        if is_open != self._is_open:
            self._is_open = is_open
            self._on_change(is_open)


class Attempt:
    """One request. Only its first result counts. Always call `abandoned` at the end."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._ended = False

    def answered(self) -> None:
        """Records that the model answered. A refusal counts as an answer: it shows that the provider is up."""
        if not self._ended:
            self._ended = True
            self._breaker.record_success()

    def failed(self) -> None:
        """Records that the provider was not reached, did not answer in time, or answered 502, 503 or 504."""
        if not self._ended:
            self._ended = True
            self._breaker.record_failure(self)

    def abandoned(self) -> None:
        """Records that the caller stopped before there was a result. Does nothing after a result."""
        if not self._ended:
            self._ended = True
            self._breaker.abandon(self)
