"""The projector waits out whatever is away, loses nothing, and says whether it is ready."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from infrastructure.settings import Settings
from projections.projector import Projector
from projections.views.catalog import CONTEXT, INDEXES, MONGO_VIEWS
from tests.projections.history import write_everything
from tests.projections.world import SECONDS, World
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer


class Cut:
    """A projector that reaches its stores by ways that can be cut."""

    def __init__(self, world: World, runner: Projector, ways: dict[str, Proxy]) -> None:
        self.world = world
        self.runner = runner
        self.ways = ways


@pytest.fixture
async def cut(settings: Settings, world: World) -> AsyncIterator[Cut]:
    # A replica set would be looked up, and found behind the proxy's back.
    direct = settings.mongodb_url.replace("replicaSet=rs0", "directConnection=true")
    ways = {"postgres": Proxy(settings.postgres_url), "mongodb": Proxy(direct), "redis": Proxy(settings.redis_url)}
    for way in ways.values():
        await way.restore()
    urls = {f"{name}_url": way.url for name, way in ways.items()}
    by_ways = World(settings.model_copy(update=urls))
    await by_ways.pool.open()
    runner = by_ways.runner()
    stop = asyncio.Event()
    running = asyncio.create_task(runner.run(stop))
    yield Cut(world, runner, ways)
    stop.set()
    async with asyncio.timeout(SECONDS):
        await running
    await by_ways.close()
    for way in ways.values():
        await way.cut()


@pytest.mark.parametrize("store", ["postgres", "mongodb", "redis"])
async def test_given_a_store_is_lost_when_it_comes_back_then_every_view_catches_up(
    store: str, write: Writer, cut: Cut
) -> None:
    await write_everything(write)
    await cut.world.until(cut.world.shown)
    assert cut.runner.is_ready
    await cut.ways[store].cut()
    await write_everything(write)
    await cut.world.until(lambda: _is(not cut.runner.is_ready))
    await write_everything(write)
    await cut.ways[store].restore()
    await cut.world.until(cut.world.shown)
    await cut.world.until(lambda: _is(cut.runner.is_ready))
    assert await cut.world.is_exact()


async def test_given_redis_is_away_then_the_views_in_mongodb_go_on(write: Writer, cut: Cut) -> None:
    await write_everything(write)
    await cut.world.until(cut.world.shown)
    await cut.ways["redis"].cut()
    await write_everything(write)
    await cut.world.until(lambda: cut.world.shown(MONGO_VIEWS))
    assert not await cut.world.shown([CONTEXT])


async def test_given_stores_are_away_when_the_projector_starts_then_it_waits_for_them(
    write: Writer, settings: Settings, cut: Cut
) -> None:
    for way in cut.ways.values():
        await way.cut()
    await write_everything(write)
    await cut.world.until(lambda: _is(not cut.runner.is_ready))
    for way in cut.ways.values():
        await way.restore()
    await cut.world.until(cut.world.shown)
    assert await cut.world.is_exact()


async def test_given_no_notification_ever_comes_when_events_are_appended_then_they_are_found_all_the_same(
    write: Writer, world: World
) -> None:
    stop = asyncio.Event()
    nowhere = "postgresql://postgres@127.0.0.1:1/nowhere"
    running = asyncio.create_task(world.runner(listens_to=nowhere).run(stop))
    await write.start("one")
    await world.until(world.shown)
    await write.start("two")
    await world.until(world.shown, seconds=3)
    stop.set()
    await running


async def test_given_the_listener_is_cut_off_when_events_are_appended_then_it_listens_again(
    write: Writer, live: World, settings: Settings
) -> None:
    await write.start("one")
    await live.until(live.shown)
    listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"events\"'"
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        killed = connection.execute("SELECT pid, pg_terminate_backend(pid, 5000) " + listeners).fetchall()
        assert len(killed) == 1

        async def listens() -> bool:
            return bool(connection.execute("SELECT pid " + listeners).fetchall())

        await live.until(listens)
    await write.start("two")
    await live.until(live.shown)


async def test_given_the_whole_mongo_database_is_dropped_when_the_projector_runs_then_everything_comes_back(
    write: Writer, live: World
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    held = await live.held()
    indexes = await _indexes(live)
    await live.client.drop_database(live.database.name)
    await live.until(live.shown)
    assert await live.held() == held
    assert await _indexes(live) == indexes
    assert len(indexes["conversations"]) == 1 + len(INDEXES["conversations"])


async def test_given_the_positions_alone_are_lost_then_the_views_are_emptied_and_filled_again(
    write: Writer, live: World
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    held = await live.held()
    await live.database["projections"].drop()
    await live.until(live.shown)
    assert await live.held() == held


async def _indexes(world: World) -> dict[str, set[str]]:
    return {view: set(await world.database[view].index_information()) for view in MONGO_VIEWS}


async def _is(condition: bool) -> bool:
    return condition
