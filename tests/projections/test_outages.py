"""The projector waits while a store is unavailable, and loses nothing."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from infrastructure.settings import Settings
from projections.projector import Projector
from projections.views.catalog import CONTEXT, INDEXES, MONGO_VIEWS
from tests.projections.history import write_many_kinds
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer


class CuttableProjector:
    """A projector whose connections to the stores can be cut. `world` has other connections."""

    def __init__(self, world: World, projector: Projector, proxies: dict[str, Proxy]) -> None:
        self.world = world
        self.projector = projector
        self.proxies = proxies


@pytest.fixture
async def cuttable(settings: Settings, world: World) -> AsyncIterator[CuttableProjector]:
    # Without directConnection the client would bypass the proxy.
    direct = settings.mongodb_url.replace("replicaSet=rs0", "directConnection=true")
    proxies = {"postgres": Proxy(settings.postgres_url), "mongodb": Proxy(direct), "redis": Proxy(settings.redis_url)}
    for proxy in proxies.values():
        await proxy.restore()
    urls = {f"{name}_url": proxy.url for name, proxy in proxies.items()}
    proxied = World(settings.model_copy(update=urls))
    await proxied.pool.open()
    projector = proxied.projector()
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    yield CuttableProjector(world, projector, proxies)
    stop.set()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await running
    await proxied.close()
    for proxy in proxies.values():
        await proxy.cut()


@pytest.mark.parametrize("store", ["postgres", "mongodb", "redis"])
async def test_every_view_catches_up_when_an_unavailable_store_returns(
    store: str, write: Writer, cuttable: CuttableProjector
) -> None:
    await write_many_kinds(write)
    await cuttable.world.until(cuttable.world.caught_up)
    assert cuttable.projector.is_ready
    await cuttable.proxies[store].cut()
    await write_many_kinds(write)
    await cuttable.world.until(lambda: _is(not cuttable.projector.is_ready))
    await write_many_kinds(write)
    await cuttable.proxies[store].restore()
    await cuttable.world.until(cuttable.world.caught_up)
    await cuttable.world.until(lambda: _is(cuttable.projector.is_ready))
    assert await cuttable.world.matches_log()


async def test_without_redis_the_views_in_mongodb_continue(write: Writer, cuttable: CuttableProjector) -> None:
    await write_many_kinds(write)
    await cuttable.world.until(cuttable.world.caught_up)
    await cuttable.proxies["redis"].cut()
    await write_many_kinds(write)
    await cuttable.world.until(lambda: cuttable.world.caught_up(MONGO_VIEWS))
    assert not await cuttable.world.caught_up([CONTEXT])


async def test_the_projector_waits_for_all_stores(
    write: Writer, settings: Settings, cuttable: CuttableProjector
) -> None:
    for proxy in cuttable.proxies.values():
        await proxy.cut()
    await write_many_kinds(write)
    await cuttable.world.until(lambda: _is(not cuttable.projector.is_ready))
    for proxy in cuttable.proxies.values():
        await proxy.restore()
    await cuttable.world.until(cuttable.world.caught_up)
    assert await cuttable.world.matches_log()


async def test_polling_finds_events_without_notifications(write: Writer, world: World) -> None:
    stop = asyncio.Event()
    nowhere = "postgresql://postgres@127.0.0.1:1/nowhere"
    running = asyncio.create_task(world.projector(listens_to=nowhere).run(stop))
    await write.start("one")
    await world.until(world.caught_up)
    await write.start("two")
    await world.until(world.caught_up, seconds=3)
    stop.set()
    await running


async def test_a_listener_that_lost_its_connection_listens_again(
    write: Writer, live: World, settings: Settings
) -> None:
    await write.start("one")
    await live.until(live.caught_up)
    listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"events\"'"
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        killed = connection.execute("SELECT pid, pg_terminate_backend(pid, 5000) " + listeners).fetchall()
        assert len(killed) == 1

        async def listens() -> bool:
            return bool(connection.execute("SELECT pid " + listeners).fetchall())

        await live.until(listens)
    await write.start("two")
    await live.until(live.caught_up)


async def test_everything_is_rebuilt_after_the_mongodb_database_is_dropped(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    stored = await live.documents()
    indexes = await _indexes(live)
    await live.client.drop_database(live.database.name)
    await live.until(live.caught_up)
    assert await live.documents() == stored
    assert await _indexes(live) == indexes
    assert len(indexes["conversations"]) == 1 + len(INDEXES["conversations"])


async def test_views_that_lost_their_positions_start_over(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    stored = await live.documents()
    await live.database["projections"].drop()
    await live.until(live.caught_up)
    assert await live.documents() == stored


async def _indexes(world: World) -> dict[str, set[str]]:
    return {view: set(await world.database[view].index_information()) for view in MONGO_VIEWS}


async def _is(condition: bool) -> bool:
    return condition
