"""How much was used in the last minute, counted by the second. `window.lua` does the same for all processes together."""

from typing import Final

WINDOW_SECONDS: Final = 60
"""A use that does not exceed what is left counts for at least this long, and at most a second longer."""

MAX_AHEAD_SECONDS: Final = 86_400
"""How much longer a use may count if it exceeds what is left (`Window.add`)."""


class Window:
    """Counts the uses of the last minute, and what they leave of `limit`. The callers decide whether a use is allowed.

    Times are seconds of a clock that never goes back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._amounts: dict[int, int] = {}
        self._used = 0
        self._checked = -1

    def left(self, now: float) -> int:
        """How much more may be used. Negative if more than the limit was used."""
        self._forget(int(now))
        return self._limit - self._used

    def add(self, now: float, amount: int) -> None:
        """Counts a use from now on. If the use exceeds what is left, it counts for longer than a minute, unless the limit is 0.

        It counts longer by `excess / limit` minutes, but at most by MAX_AHEAD_SECONDS: in this time the limit allows as much as the excess.
        """
        second = int(now)
        excess = amount - self.left(now)
        if excess > 0 and self._limit:
            second += min(MAX_AHEAD_SECONDS, WINDOW_SECONDS * excess // self._limit)
        self._amounts[second] = self._amounts.get(second, 0) + amount
        self._used += amount

    def free_in(self, now: float) -> float:
        """Seconds until something more may be used; 0 if something may be used now. 60 if the limit is 0."""
        left = self.left(now)
        for second in sorted(self._amounts) if left <= 0 else ():
            left += self._amounts[second]
            if left > 0:
                return second + WINDOW_SECONDS + 1 - now
        return float(WINDOW_SECONDS) if left <= 0 else 0.0

    def _forget(self, second: int) -> None:
        """Removes the uses that no longer count."""
        if second == self._checked:
            return
        self._checked = second
        for earlier in [counted for counted in self._amounts if second - counted > WINDOW_SECONDS]:
            self._used -= self._amounts.pop(earlier)
