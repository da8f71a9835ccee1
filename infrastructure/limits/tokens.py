"""Limits the tokens in any minute. A reply's tokens are counted at its end, because their number is known only then.

A reply is allowed while anything is left. If the reply uses more, its tokens count for longer than a minute.
"""

from collections.abc import Sequence
from typing import Final

from infrastructure.limits.shared_counts import Script
from infrastructure.limits.window import MAX_AHEAD_SECONDS, Window

KNOWN_SECONDS: Final = 1.0
"""A process relies on an answer of Redis for this long."""


class TokenCount:
    """See `Count` in `shared_counts.py`."""

    script: Script = "window.lua"

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.waiting = 0
        self._local_window = Window(limit)
        self._left: int | None = None
        self._free_at = 0.0
        self._known_at = 0.0
        self._pending = self._sent = 0
        """`_pending`: tokens that are not counted in Redis yet. `_sent`: how many pending tokens the current question has."""

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """None: Redis must be asked."""
        if not is_shared:
            return self._local_window.left(now) > 0
        if self._left is None or now - self._known_at > KNOWN_SECONDS:
            return None
        return self._left > self._pending

    def spend(self, now: float, tokens: int) -> None:
        self._local_window.add(now, tokens)
        self._pending += tokens

    def left(self, now: float, *, is_shared: bool) -> int:
        return max(
            0, self._left - self._pending if is_shared and self._left is not None else self._local_window.left(now)
        )

    def free_in(self, now: float, *, is_shared: bool) -> float:
        """Seconds until more is allowed."""
        return (
            max(0.0, self._free_at - now) if is_shared and self._left is not None else self._local_window.free_in(now)
        )

    def question(self, _: float) -> Sequence[int]:
        self._sent = self._pending
        return (self.limit, 0, self._sent, 0, 0, MAX_AHEAD_SECONDS)

    def answered(self, now: float, answer: Sequence[int]) -> None:
        _, self._left, _, free_in = answer
        self._pending -= self._sent
        self._known_at, self._free_at = now, now + free_in

    def failed(self) -> None:
        """The tokens stay pending."""

    def tick(self, _: float) -> bool:
        return self._pending > 0

    def close(self) -> bool:
        return self._pending > 0

    def is_idle(self, now: float) -> bool:
        return not (self._pending or self.waiting) and self._local_window.left(now) == self.limit
