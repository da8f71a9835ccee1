"""Limits the requests in a second, in this process alone. Without this limit, somebody could send all the requests of a minute at once.

A large body or answer counts as several requests. If it exceeds the limit, later requests are refused for a while, at most for about
MAX_DEBT_SECONDS.
"""

from typing import Final

BYTES_OF_A_REQUEST: Final = 64 * 1024
MAX_DEBT_SECONDS: Final = 10


class BurstCount:
    """How many requests one tenant, subject or key has left. The number grows evenly with time, up to the limit of a second."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._counted_at = 0.0

    def has(self, now: float) -> bool:
        """Whether another request is allowed."""
        return self._left_at(now) > 0

    def take(self, now: float, size: int) -> None:
        """Counts a request with a body of `size` bytes."""
        self._take(now, 1 + size / BYTES_OF_A_REQUEST)

    def take_more(self, now: float, size: int) -> None:
        """Counts bytes of a request that was counted before."""
        self._take(now, size / BYTES_OF_A_REQUEST)

    def free_in(self, now: float) -> float:
        """Seconds until another request is allowed. 60 if the limit is 0, which never allows one."""
        left = self._left_at(now)
        return 0.0 if left > 0 else (1 - left) / self.limit if self.limit else 60.0

    def is_idle(self, now: float) -> bool:
        """Whether the process may forget this count."""
        return self._left_at(now) == self.limit

    def _take(self, now: float, requests: float) -> None:
        self._left = max(self._left_at(now) - requests, -float(MAX_DEBT_SECONDS * self.limit))
        self._counted_at = now

    def _left_at(self, now: float) -> float:
        return min(float(self.limit), self._left + (now - self._counted_at) * self.limit)
