"""Limits how many replies, background replies and followers there are at once. Each reply and each follower takes a place.

A process asks Redis for a place only when it needs one. Redis forgets the places of a process that stops reporting
them, so a dead process's places become free.
"""

from collections.abc import Sequence
from typing import Final

from infrastructure.limits.shared_counts import Script

REPORT_INTERVAL_SECONDS: Final = 1.0
ASK_AGAIN_SECONDS: Final = 0.2
"""The pause before Redis is asked again, if too few places were free."""

RETRY_SECONDS: Final = 1.0
"""How long a refused client is asked to wait. Nobody knows when a place will be free."""


class ConcurrentCount:
    """A `Count` (`shared_counts.py`)."""

    script: Script = "concurrent.lua"

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.waiting = 0
        self._used = 0
        self._allowed = 0
        """How many places Redis lets this process use."""
        self._requested = 0
        self._ask_again_at = 0.0
        self._reported_at = 0.0

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """None: Redis must be asked."""
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
        return not (self._used or self._allowed or self.waiting)
