"""Limits how many replies, background replies and followers there are at once. Each of them takes a place, and gives it back when it ends.

A process asks Redis for a place only when it needs one, because other processes cannot use a place that it holds. Every second it
tells Redis how many places it uses. Redis forgets a number that was not repeated for a few seconds. So the places of a process that
died become free.
"""

from collections.abc import Sequence
from typing import Final

from infrastructure.limits.shared_counts import Script

REPORT_INTERVAL_SECONDS: Final = 1.0
ASK_AGAIN_SECONDS: Final = 0.2
"""How long a process waits before it asks Redis again, if no place was free."""

RETRY_SECONDS: Final = 1.0
"""How long a client should wait before it tries again. Nobody knows when a place will be free."""


class ConcurrentCount:
    """The places of one tenant, subject or key. See `Count` in `shared_counts.py`."""

    script: Script = "concurrent.lua"

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.waiting = 0
        self._used = 0
        self._allowed = 0
        """How many places Redis lets this process use. For a short time this can be more than the process uses."""
        self._requested = 0
        self._ask_again_at = 0.0
        self._reported_at = 0.0

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """Whether a place is free. None: Redis must be asked."""
        if self._used < self._allowed:
            return True
        if now < self._ask_again_at:
            return False
        return None if is_shared else self._used < self.limit

    def take(self) -> None:
        self._used += 1

    def give_back(self) -> None:
        self._used -= 1

    def free_in(self, _: float, *, is_shared: bool) -> float:  # noqa: ARG002 - the other counts need it
        """Seconds after which a client should try again."""
        return RETRY_SECONDS

    def question(self, now: float) -> Sequence[int]:
        self._reported_at = now
        self._requested = self._used + self.waiting
        return (self.limit, self._used, self._requested)

    def answered(self, now: float, answer: Sequence[int]) -> None:
        self._allowed, _ = answer
        self._ask_again_at = now + ASK_AGAIN_SECONDS if self._allowed < self._requested else 0.0

    def failed(self) -> None:
        """Until Redis answers again, this process decides by itself."""
        self._allowed = 0

    def tick(self, now: float) -> bool:
        return (self._used > 0 or self._allowed > 0) and now - self._reported_at >= REPORT_INTERVAL_SECONDS

    def close(self) -> bool:
        return self._used > 0 or self._allowed > 0

    def is_idle(self, _: float) -> bool:
        """Whether the process may forget this count."""
        return not (self._used or self._allowed or self.waiting)
