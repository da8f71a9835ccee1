"""Limits the requests in a second, in this process alone. Without this limit, all requests of a minute could come at
once.

A large body or answer counts as several requests.
"""

from math import inf, nextafter
from typing import Final

BYTES_OF_A_REQUEST: Final = 64 * 1024
MAX_DEBT_SECONDS: Final = 10


class BurstCount:
    """What is left grows evenly with time, up to the limit of a second."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._counted_at = 0.0

    def has(self, now: float) -> bool:
        return self._left_at(now) > 0

    def take(self, now: float, size: int) -> None:
        """`size`: bytes of the body."""
        self._take(now, 1 + size / BYTES_OF_A_REQUEST)

    def take_more(self, now: float, size: int) -> None:
        self._take(now, size / BYTES_OF_A_REQUEST)

    def free_in(self, now: float) -> float:
        """0 if a request is allowed, otherwise the seconds until `has` is true. 60 if the limit is 0."""
        left = self._left_at(now)
        if left > 0:
            return 0.0
        return nextafter(-left / self.limit, inf) if self.limit else 60.0  # at -left / limit, exactly 0 is left

    def is_idle(self, now: float) -> bool:
        return self._left_at(now) == self.limit

    def _take(self, now: float, requests: float) -> None:
        self._left = max(self._left_at(now) - requests, -float(MAX_DEBT_SECONDS * self.limit))
        self._counted_at = now

    def _left_at(self, now: float) -> float:
        return min(float(self.limit), self._left + (now - self._counted_at) * self.limit)
