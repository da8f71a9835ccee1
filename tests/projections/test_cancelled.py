"""A cancelled task ends, also if a store's client swallows the CancelledError.

Each task is cancelled at each of the first turns of the event loop. During some turns, a client sends a command.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator

import pytest

from projections.rebuild.upgrade import upgrade_views
from projections.views.catalog import POSITIONS_COLLECTION
from tests.projections.history import write_many_kinds
from tests.projections.world import World
from tests.queries.writer import Writer

TURNS = 40

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_sockets() -> Iterator[None]:
    """A client that is cancelled while it connects does not close its socket. Another test must not be blamed for it."""
    yield
    gc.collect()


async def _ends_whenever_cancelled(work: Callable[[], Coroutine[None, None, None]]) -> None:
    for turns in range(TURNS):
        working = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        assert (await asyncio.wait({working}, timeout=3))[0], f"goes on after a cancellation at turn {turns}"


async def test_a_projector_ends_whenever_it_is_cancelled(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await _ends_whenever_cancelled(lambda: world.projector().run(asyncio.Event()))


async def test_an_upgrade_that_fails_ends_whenever_it_is_cancelled(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await world.database[POSITIONS_COLLECTION].update_many({"view": "items"}, {"$set": {"version": 0}})
    nothing_listens = world.settings.model_copy(update={"postgres_url": "postgresql://127.0.0.1:1/none"})
    await _ends_whenever_cancelled(lambda: upgrade_views(nothing_listens, world.pool, world.database, world.projector))
