"""Circuit breakers. While a model is down, its breaker makes requests fail at once.

No library is used, because here a stream counts as answered at its first event with content, and probes pass one by one.
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

MAX_MODELS = 256
"""Clients may send any name as a model."""

log = structlog.get_logger(__name__)


class CircuitBreakers:
    """The breakers of the models that were used last. `on_change` gets the number of open breakers."""

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
        """Call before each request. Raises ModelFailed (`model_unavailable`)."""
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
    """Opens after MAX_FAILURES failures in a row, each at most FAILURE_WINDOW_SECONDS after the failure before.

    OPEN_SECONDS later, one request passes as a probe. While there is no result, another probe passes every
    PROBE_SECONDS. The first answer closes the breaker. If the newest probe fails, the breaker stays open for
    OPEN_SECONDS more.
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

    @property
    def is_open(self) -> bool:
        return self._is_open

    def begin_attempt(self) -> "Attempt":
        """Raises ModelFailed (`model_unavailable`)."""
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
        """If the attempt was the newest probe, the next request becomes a probe."""
        if attempt is self._probe:
            self._probe, self._next_probe_at = None, self._clock()

    def _set_open(self, *, is_open: bool) -> None:
        if is_open != self._is_open:
            self._is_open = is_open
            self._on_change(is_open)


class Attempt:
    """One request to a model. Only the first result counts. Always call `abandoned` at the end."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._ended = False

    def answered(self) -> None:
        """A refusal counts as an answer, because the provider is up."""
        if not self._ended:
            self._ended = True
            self._breaker.record_success()

    def failed(self) -> None:
        """Call this if there is no connection or no answer in time, or if the status is 502, 503 or 504."""
        if not self._ended:
            self._ended = True
            self._breaker.record_failure(self)

    def abandoned(self) -> None:
        if not self._ended:
            self._ended = True
            self._breaker.abandon(self)
