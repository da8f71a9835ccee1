"""`HeartbeatWatch` finds dead processes by its own clock."""

from collections.abc import Callable

from infrastructure.stores.heartbeats import HeartbeatWatch
from tests.manual_clock import ManualClock

DEAD_AFTER, INTERVAL = 5.0, 0.5


def watch(clock: Callable[[], float]) -> HeartbeatWatch[str]:
    return HeartbeatWatch(DEAD_AFTER, INTERVAL, clock)


def looks_until_dead(watch: HeartbeatWatch[str], clock: ManualClock, beat: int | None, step: float) -> int:
    """Reads every `step` seconds until the process is dead. Returns the number of reads."""
    looks = 1
    while "other" not in watch.unchanged({"other": beat}):
        clock.seconds += step
        looks += 1
    return looks


def test_a_process_whose_beat_stays_the_same_for_long_enough_is_dead() -> None:
    clock = ManualClock()
    assert looks_until_dead(watch(clock), clock, 7, INTERVAL) == 1 + DEAD_AFTER / INTERVAL
    assert clock.seconds == DEAD_AFTER


def test_a_process_whose_beat_changes_is_alive() -> None:
    clock = ManualClock()
    watching = watch(clock)
    for beat in (1, 2, 9, 3, 4, 5, 1) * 3:  # a restored Postgres can have a smaller number
        assert watching.unchanged({"other": beat}) == set()
        clock.seconds += DEAD_AFTER - INTERVAL


def test_one_read_after_a_long_freeze_declares_nobody_dead() -> None:
    clock = ManualClock()
    watching = watch(clock)
    watching.unchanged({"other": 1})
    clock.seconds += 1_000_000
    assert looks_until_dead(watching, clock, 1, 1_000_000) == DEAD_AFTER / (2 * INTERVAL)


def test_start_over_forgets_the_time_that_has_passed() -> None:
    clock = ManualClock()
    watching = watch(clock)
    looks_until_dead(watching, clock, 1, INTERVAL)
    watching.start_over()
    assert looks_until_dead(watching, clock, 1, INTERVAL) == 1 + DEAD_AFTER / INTERVAL


def test_a_process_without_a_row_has_an_unchanged_beat() -> None:
    clock = ManualClock()
    watching = watch(clock)
    assert looks_until_dead(watching, clock, None, INTERVAL) == 1 + DEAD_AFTER / INTERVAL
    assert watching.unchanged({"other": 3}) == set(), "it has a row now, so it lives"
    looks_until_dead(watching, clock, 3, INTERVAL)
    assert watching.unchanged({"other": None}) == {"other"}, "somebody deleted its row: it is still dead"
    assert watching.unchanged({}) == set()
    assert watching.unchanged({"other": None}) == set(), "it was forgotten, so the time is counted anew"
