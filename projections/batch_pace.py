"""Decides how far apart two batches start.

A batch costs about 5 ms of processor time, and each event about 0.1 ms more. Under load, small batches would take half
of the machine's processor time.
"""

import time
from collections.abc import Callable

BUSY_EVENTS_PER_SECOND = 700
"""From this many events a second on, batches start at least BUSY_BATCH_SECONDS apart."""

BUSY_BATCH_SECONDS = 0.1

_WINDOW_SECONDS = 0.5


class BatchPace:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = clock()
        self._began_with = 0
        self._is_busy = False

    def seconds_between(self, log_end: int, min_batch_seconds: float) -> float:
        """The least time from the start of one batch to the next. `log_end`: the newest known position."""
        seconds = self._clock() - self._began_at
        if seconds >= _WINDOW_SECONDS:
            self._is_busy = log_end - self._began_with >= BUSY_EVENTS_PER_SECOND * seconds
            self._began_at, self._began_with = self._clock(), log_end
        return max(min_batch_seconds, BUSY_BATCH_SECONDS) if self._is_busy else min_batch_seconds
