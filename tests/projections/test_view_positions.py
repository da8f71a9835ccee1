"""How the collection of view positions is created, and what happens when a position is lost."""

import asyncio
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from projections.rebuild.view_builds import BuildGone, ViewBuilds
from projections.view_positions import ViewPositions
from projections.views.catalog import CONTEXT, MONGO_VIEWS, POSITIONS_COLLECTION
from projections.views.partitions import PARTITIONS, partition_of, position_key
from projections.views.view_position import BUILD_SUFFIX
from tests.projections.history import write_many_kinds
from tests.projections.test_rebuild import rebuild_of
from tests.projections.test_scripts import run_script
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer


async def test_several_projectors_create_the_collection_once_with_small_pages(
    world: World,
) -> None:
    await world.database.drop_collection(POSITIONS_COLLECTION)
    await asyncio.gather(*(ViewPositions(world.database).prepare() for _ in range(4)))
    assert "memory_page_max" in str((await world.database[POSITIONS_COLLECTION].options()).get("storageEngine"))
    await world.catch_up()
    assert len(await world.view_positions()) == PARTITIONS * len(MONGO_VIEWS)


async def test_a_view_that_lost_a_position_starts_over_and_no_read_shows_less(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    conversation = await write.start("first", "second")
    await live.until(live.caught_up)
    with capture_logs() as logged:
        async with open_api(live.settings) as api:
            await lose_position(live, "items", partition_of(conversation))
            reads = [await read_items(api, conversation)]
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while reads[-1] is None:
                    reads.append(await read_items(api, conversation))
    assert reads[-1] == 2
    assert set(reads) <= {None, 2}
    missing = [entry for entry in logged if entry["event"] == "projection_position_missing"]
    assert [(entry["projection"], entry["partition"], entry["log_level"]) for entry in missing] == [
        ("items", partition_of(conversation), "error")
    ]
    await write_many_kinds(write)
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_the_context_view_starts_over_when_it_lost_a_position(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    await lose_position(live, CONTEXT, 3)
    await live.until(live.caught_up)
    await write_many_kinds(write)
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_with_two_projectors_a_view_that_lost_a_position_starts_over_once(write: Writer, live: World) -> None:
    stop = asyncio.Event()
    second = asyncio.create_task(live.projector().run(stop))
    await write_many_kinds(write)
    await live.until(live.caught_up)
    await lose_position(live, "conversations", 0)
    await live.until(live.caught_up)
    assert (await live.statuses())["conversations"].collection == "conversations_2"
    assert await live.matches_log()
    stop.set()
    await second


async def test_without_a_projector_a_rebuild_restores_a_view_that_lost_a_position(
    write: Writer, world: World, tmp_path: Path
) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await lose_position(world, "items", 5)
    done = await asyncio.to_thread(run_script, world, tmp_path, "scripts.rebuild", "items")
    assert done.returncode == 0, done.stderr
    await world.until(world.caught_up)
    assert await world.matches_log()


@pytest.mark.parametrize("backfilled", [False, True])
async def test_a_rebuild_starts_a_new_build_if_a_build_lost_a_position(
    backfilled: bool, write: Writer, world: World
) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    builds = await ViewBuilds(world.database).start(["items"], await world.reader.end(), 2)
    if backfilled:
        await rebuild_of(world, ["items"]).backfill(builds)
    await lose_position(world, f"items{BUILD_SUFFIX}", 1)
    done = await rebuild_of(world, ["items"]).run()
    assert [comparison.different for comparison in done.compared] == [0]
    assert await world.matches_log()


async def test_a_rollback_does_nothing_if_the_kept_collection_lost_a_position(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await rebuild_of(world, ["items"]).run()
    await lose_position(world, f"items{BUILD_SUFFIX}", 1)
    assert await rebuild_of(world, ["items"]).roll_back() is None


async def test_a_position_that_is_lost_during_a_rebuild_ends_the_rebuild(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    builds = await ViewBuilds(live.database).start(["items"], await live.reader.end(), 2)
    rebuild = rebuild_of(live, ["items"])
    await rebuild.backfill(builds)
    await lose_position(live, "items", 1)
    with pytest.raises(BuildGone):
        await rebuild.compare()
    await live.until(live.caught_up)
    assert await live.matches_log()


async def lose_position(world: World, view: str, partition: int) -> None:
    deleted = await world.database[POSITIONS_COLLECTION].delete_one({"_id": position_key(view, partition)})
    assert deleted.deleted_count == 1


async def read_items(api: httpx.AsyncClient, conversation_id: str) -> int | None:
    """How many items the API lists. None if it answers 503."""
    page = await api.get(f"/v1/conversations/{conversation_id}/items")
    assert page.status_code in (200, 503), page.text
    return len(page.json()["data"]) if page.status_code == 200 else None
