"""How much was used in the last minute, counted by the second. `window.lua` does the same for all processes together."""

from typing import Final

WINDOW_SECONDS: Final = 60
"""A use within the limit counts for this long, and at most a second longer."""

MAX_AHEAD_SECONDS: Final = 86_400
"""The most seconds by which `Window.add` makes a use count longer."""


class Window:
    """Callers decide what is allowed. Times are seconds of a clock that never goes back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._amounts: dict[int, int] = {}
        self._used = 0
        self._checked = -1

    def left(self, now: float) -> int:
        """Negative if more than the limit was used."""
        self._forget(int(now))
        return self._limit - self._used

    def add(self, now: float, amount: int) -> None:
        """If a use exceeds what is left, it counts longer. An excess as large as the limit makes it count a minute longer."""
        second = int(now)
        excess = amount - self.left(now)
        if excess > 0 and self._limit:
            second += min(MAX_AHEAD_SECONDS, WINDOW_SECONDS * excess // self._limit)
        self._amounts[second] = self._amounts.get(second, 0) + amount
        self._used += amount

    def free_in(self, now: float) -> float:
        """Seconds until more is allowed. 60 if the limit is 0."""
        left = self.left(now)
        for second in sorted(self._amounts) if left <= 0 else ():
            left += self._amounts[second]
            if left > 0:
                return second + WINDOW_SECONDS + 1 - now
        return float(WINDOW_SECONDS) if left <= 0 else 0.0

    def _forget(self, second: int) -> None:
        if second == self._checked:
            return
        self._checked = second
        for earlier in [counted for counted in self._amounts if second - counted > WINDOW_SECONDS]:
            self._used -= self._amounts.pop(earlier)
