"""Limits the requests in any minute. A process takes portions of requests from Redis in advance."""

from collections.abc import Sequence
from typing import Final

from infrastructure.limits.shared_counts import Script
from infrastructure.limits.window import WINDOW_SECONDS, Window

PORTIONS: Final = 100
"""A portion is at most the limit divided by this, but at least one request. If the limit is smaller than PORTIONS, Redis is asked for each request."""

UNUSED_SECONDS: Final = 5.0
"""A process that took no portion for this long gives back what is left of its portion."""

USED_UP_SECONDS: Final = (1.0, 4.0)
"""(soon, long). If a portion lasts less than `soon`, the next one is twice as large. If it lasts longer than `long`, the next one is half as large."""

ASK_AGAIN_SECONDS: Final = 0.5
"""The pause after Redis had too little left. Meanwhile Redis is not asked, and requests without a portion are refused."""


class RequestCount:
    """See `Count` in `shared_counts.py`."""

    script: Script = "window.lua"

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.waiting = 0
        self._local_window = Window(limit)
        self._portion = 0
        self._portion_size = 1
        self._taken_at = 0
        """A second of Redis's clock."""
        self._portion_since = 0.0
        self._uncounted = 0
        """Allowed without a portion, and not counted in Redis yet."""
        self._left: int | None = None
        self._ask_again_at = 0.0
        self._free_at = 0.0
        self._requested = self._requested_for_uncounted = 0
        self._is_closing = False

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """None: Redis must be asked."""
        if self._portion > 0:
            return True
        if now < self._ask_again_at:
            return False
        return None if is_shared else self._local_window.left(now) > 0

    def take(self, now: float) -> bool:
        """Counts one request. Returns whether Redis should be asked for the next portion."""
        self._local_window.add(now, 1)
        if self._portion == 0:
            self._uncounted += 1
            return True
        self._portion -= 1
        return self.limit >= PORTIONS and self._portion <= self._portion_size // 2 and now >= self._ask_again_at

    def left(self, now: float, *, is_shared: bool) -> int:
        if is_shared and self._left is not None:
            return max(0, self._left + self._portion)
        return max(0, self._local_window.left(now))

    def free_in(self, now: float, *, is_shared: bool) -> float:
        """Seconds until more is allowed."""
        return max(0.0, self._free_at - now) if is_shared and self._free_at else self._local_window.free_in(now)

    def question(self, now: float) -> Sequence[int]:
        unused = 0
        if self._is_closing or self._is_unused(now):
            unused, self._portion, self._portion_size = self._portion, 0, 1
        elif self._portion <= self._portion_size // 2:
            self._resize(now - self._portion_since)
        wanted = 0 if unused or self._is_closing else max(self.waiting, self._portion_size - self._portion)
        self._requested_for_uncounted = self._uncounted
        self._requested = self._uncounted + wanted
        return (self.limit, self._requested, 0, unused, self._taken_at, 1)

    def answered(self, now: float, answer: Sequence[int]) -> None:
        taken, self._left, second, free_in = answer
        paid = min(taken, self._uncounted)  # `_uncounted` includes requests that were allowed since Redis was asked
        # Uncounted requests for which Redis has too little left are never counted.
        self._uncounted -= max(paid, self._requested_for_uncounted)
        if taken > paid:
            self._portion += taken - paid
            self._taken_at, self._portion_since = second, now
        self._free_at = now + min(free_in, WINDOW_SECONDS) if free_in else 0.0
        if taken < self._requested:
            self._ask_again_at = now + ASK_AGAIN_SECONDS

    def failed(self) -> None:
        """Requests that the failed question gave back may count as used in Redis for a minute."""

    def tick(self, now: float) -> bool:
        return self._uncounted > 0 or self._is_unused(now)

    def close(self) -> bool:
        self._is_closing = True
        return self._portion > 0 or self._uncounted > 0

    def is_idle(self, now: float) -> bool:
        return not (self._portion or self.waiting) and self._local_window.left(now) == self.limit

    def _is_unused(self, now: float) -> bool:
        return self._portion > 0 and not self.waiting and now - self._portion_since > UNUSED_SECONDS

    def _resize(self, lasted: float) -> None:
        soon, long = USED_UP_SECONDS
        if lasted < soon:
            self._portion_size = min(max(1, self.limit // PORTIONS), 2 * self._portion_size)
        elif lasted > long:
            self._portion_size = max(1, self._portion_size // 2)
