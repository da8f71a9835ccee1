"""Tells which processes are dead, without a wall clock.

Each process has a row in Postgres with a number, its beat. The process raises its beat again and again. A process that reads
the rows about every `interval_seconds` remembers the beats, and measures with its own monotonic clock how long each beat has stayed the same. So no process compares its
clock with that of another process or of Postgres.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class HeartbeatWatch(Generic[Key]):
    """The beats that this process has seen, and for how long each has stayed the same.

    After this process or Postgres was frozen, the first beats that this process reads may be old.
    Each call of `unchanged` therefore adds at most two intervals to the time of a beat. So it takes several calls before a process counts as dead.
    """

    def __init__(
        self, dead_after_seconds: float, interval_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dead_after_seconds = dead_after_seconds
        self._max_step_seconds = 2 * interval_seconds
        self._clock = clock
        self._looked_at: float | None = None
        self._beats: dict[Key, int | None] = {}
        self._unchanged_seconds: dict[Key, float] = {}

    def unchanged(self, beats: Mapping[Key, int | None]) -> set[Key]:
        """Takes the beats that were just read. Returns the keys whose beat has not changed for `dead_after_seconds`.

        None as a beat means that the key has no row, and counts as an unchanged beat. Keys that are not in `beats` are forgotten.
        """
        now = self._clock()
        step = 0.0 if self._looked_at is None else min(now - self._looked_at, self._max_step_seconds)
        self._looked_at = now
        unchanged_seconds: dict[Key, float] = {}
        for key, beat in beats.items():
            is_unchanged = key in self._beats and beat in (None, self._beats[key])
            unchanged_seconds[key] = self._unchanged_seconds[key] + step if is_unchanged else 0.0
        self._beats = {key: self._beats.get(key) if beat is None else beat for key, beat in beats.items()}
        self._unchanged_seconds = unchanged_seconds
        return {key for key, seconds in unchanged_seconds.items() if seconds >= self._dead_after_seconds}

    def start_over(self) -> None:
        """Forgets everything. Call it when the rows could not be read: the other processes perhaps could not raise their beats either."""
        self._looked_at = None
        self._beats, self._unchanged_seconds = {}, {}
