"""Replies, background replies and followers: how many there may be at once. Each takes a place, and gives it back at its end.

A place is asked for when it is needed, since none may be taken that is not used. Redis counts each process's places for a few seconds; the process
says again and again how many it uses. So the places of a process that died are free soon.
"""

from collections.abc import Sequence
from typing import Final

from infrastructure.limits.shared_counts import Script

SAY_AGAIN_SECONDS: Final = 1.0
NONE_SECONDS: Final = 0.2
"""When no place is free, Redis is asked again after this long."""

RETRY_SECONDS: Final = 1.0
"""When a client should try again. Nobody knows when a place will be free."""


class ConcurrentCount:
    """The places of one tenant, subject or key. See Count."""

    script: Script = "concurrent.lua"

    def __init__(self, key: str, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.waiting = 0
        self._used = 0
        self._allowed = 0
        """How many Redis lets this process use. Sometimes more than it uses, for an instant."""
        self._requested = 0
        self._none_until = 0.0
        self._said_at = 0.0

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """Whether a place is free. None: Redis must be asked."""
        if self._used < self._allowed:
            return True
        if now < self._none_until:
            return False
        return None if is_shared else self._used < self.limit

    def take(self) -> None:
        self._used += 1

    def give_back(self) -> None:
        self._used -= 1

    def free_in(self, _: float, *, is_shared: bool) -> float:  # noqa: ARG002 - as the other counts have it
        """When to try again."""
        return RETRY_SECONDS

    def question(self, now: float) -> Sequence[int]:
        self._said_at = now
        self._requested = self._used + self.waiting
        return (self.limit, self._used, self._requested)

    def answered(self, now: float, answer: Sequence[int]) -> None:
        self._allowed, _ = answer
        self._none_until = now + NONE_SECONDS if self._allowed < self._requested else 0.0

    def failed(self) -> None:
        """This process decides by itself."""
        self._allowed = 0

    def tick(self, now: float) -> bool:
        return (self._used > 0 or self._allowed > 0) and now - self._said_at >= SAY_AGAIN_SECONDS

    def close(self) -> bool:
        return self._used > 0 or self._allowed > 0

    def is_idle(self, _: float) -> bool:
        """Whether this process need not remember it."""
        return not (self._used or self._allowed or self.waiting)
