"""How far apart batches are under load, and when a batch does not wait."""

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

from infrastructure.event_log.feed import BATCH_EVENTS, AppendNotifications, Batch, Feed
from infrastructure.observability.metrics import Metrics
from projections.batch_pace import BUSY_BATCH_SECONDS, BUSY_EVENTS_PER_SECOND, BatchPace
from projections.leases import HeldPartitions
from projections.mongo_views import MongoViews
from projections.view_updater import ViewUpdater
from projections.views.catalog import MONGO_VIEWS
from projections.views.partitions import ALL_PARTITIONS
from projections.views.view_position import ViewPosition
from tests.projections.world import World
from tests.queries.writer import Writer


@pytest.mark.parametrize(
    ("events_per_second", "expected"),
    [(0, 0.02), (500, 0.02), (BUSY_EVENTS_PER_SECOND - 10, 0.02), (BUSY_EVENTS_PER_SECOND + 10, BUSY_BATCH_SECONDS)],
)
def test_batches_are_far_apart_only_above_the_busy_rate(events_per_second: int, expected: float) -> None:
    now = 1_000.0
    pace = BatchPace(lambda: now)
    paces = set()
    for tick in range(300):
        now = 1_000.0 + tick / 100
        paces.add(pace.seconds_between(tick * events_per_second // 100, 0.02))
    assert paces == {0.02, expected}


def test_batches_are_close_together_again_when_a_busy_log_is_quiet() -> None:
    now = 0.0
    pace = BatchPace(lambda: now)
    now = 1.0
    assert pace.seconds_between(10_000, 0.0) == BUSY_BATCH_SECONDS
    now = 2.0
    assert pace.seconds_between(10_001, 0.0) == 0.0


def test_events_that_waited_during_a_pause_do_not_make_the_log_busy() -> None:
    now = 0.0
    pace = BatchPace(lambda: now)
    assert pace.seconds_between(0, 0.0) == 0.0
    now = 3.0
    assert pace.seconds_between(1_500, 0.0) == 0.0


class Paced(MongoViews):
    min_batch_seconds = 60.0

    def __init__(self, world: World) -> None:
        super().__init__(world.database)
        self.started_at: list[float] = []

    async def apply(self, view_positions: Sequence[ViewPosition], batch: Batch) -> list[ViewPosition]:
        self.started_at.append(time.monotonic())
        return await super().apply(view_positions, batch)


async def test_only_a_view_that_keeps_up_waits_between_batches(write: Writer, world: World) -> None:
    conversation = await write.start()
    await write.append(conversation, *["one"] * (BATCH_EVENTS - 1))
    await write.append(conversation, *["two"] * BATCH_EVENTS)
    store, stop = Paced(world), asyncio.Event()
    feed, notifications = Feed(world.reader), AppendNotifications(world.settings.postgres_url)
    updater = ViewUpdater(
        store, MONGO_VIEWS, positions=world.positions, feed=feed, notifications=notifications, metrics=Metrics()
    )
    updater.hold(HeldPartitions(dict.fromkeys(ALL_PARTITIONS, 1)))
    running = asyncio.create_task(updater.run(stop))
    await world.until(lambda: world.caught_up(MONGO_VIEWS))
    assert len(store.started_at) == 2, "the batch after a full one did not start at once"
    store.min_batch_seconds = 0.8
    for _ in range(3):
        await write.append(conversation, "three")
        notifications.notify()
    await world.until(lambda: world.caught_up(MONGO_VIEWS))
    await write.append(conversation, "four")
    notifications.notify()
    await world.until(lambda: world.caught_up(MONGO_VIEWS))
    assert len(store.started_at) > 3
    assert all(later - earlier > 0.4 for earlier, later in pairwise(store.started_at[2:])), (
        "two batches started less than half of the least time apart"
    )
    stop.set()
    await running
