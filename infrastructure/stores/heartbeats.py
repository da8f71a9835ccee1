"""Tells which processes are dead, without a wall clock.

Each process raises a number in Postgres, its beat. A reader measures with its own monotonic clock how long each beat
stays the same.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class HeartbeatWatch(Generic[Key]):
    """How long each beat has stayed the same.

    After the reader was frozen, the first beats may be old. So each call of `unchanged` adds at most two intervals.
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
        """The keys whose beat has not changed for `dead_after_seconds`. A beat None means no row, and counts as
        unchanged.

        Keys that are not in `beats` are forgotten.
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
        """Call it when the rows could not be read, because processes may not have raised their beats either."""
        self._looked_at = None
        self._beats, self._unchanged_seconds = {}, {}
