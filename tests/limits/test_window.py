"""Tests of `Window`, which counts what one process used in the last minute."""

from hypothesis import given
from hypothesis import strategies as st

from infrastructure.limits.window import WINDOW_SECONDS, Window


def test_a_use_that_fits_counts_for_a_minute() -> None:
    window = Window(10)
    window.add(100.9, 4)

    assert window.left(100.9) == 6
    assert window.left(160.9) == 6
    assert window.left(161.0) == 10


def test_free_in_is_the_time_until_something_is_left() -> None:
    window = Window(10)
    window.add(100.0, 3)
    window.add(130.5, 7)

    assert window.left(131.0) == 0
    assert window.free_in(131.0) == 161 - 131.0
    assert window.free_in(161.0) == 0


def test_a_use_of_ten_times_the_limit_counts_for_ten_minutes() -> None:
    window = Window(10)
    window.add(0.0, 100)  # as much as is allowed in ten minutes

    assert window.left(0.0) == -90
    assert window.left(599.0) <= 0
    assert window.left(602.0) == 10


def test_with_a_limit_of_zero_nothing_is_ever_left() -> None:
    window = Window(0)
    window.add(0.0, 5)

    assert window.left(0.0) <= 0
    assert window.free_in(0.0) == WINDOW_SECONDS


@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 30)), min_size=1, max_size=40),
)
def test_no_minute_exceeds_the_limit_by_more_than_one_use(limit: int, steps: list[tuple[float, int]]) -> None:
    """A use of any size is allowed while anything is left."""
    window, now = Window(limit), 0.0
    uses: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if window.left(now) > 0:
            window.add(now, amount)
            uses.append((now, amount))
        in_the_last_minute = sum(used for at, used in uses if at > now - WINDOW_SECONDS)
        assert in_the_last_minute < limit + 30

    total = sum(used for _, used in uses)
    assert total <= limit * (now / WINDOW_SECONDS + 1) + 30  # after a large use, nothing is left for a long time
