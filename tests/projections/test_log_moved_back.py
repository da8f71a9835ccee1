"""The log moves back: a backup is restored, or rows are removed.

Views and snapshots that show lost events are not read, and are made again.
"""

import asyncio
from pathlib import Path

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from context.snapshot_from_log import snapshot_from_log
from context.snapshot_store import put_snapshot
from infrastructure.event_log.feed import Feed
from infrastructure.event_log.log import EventLog
from infrastructure.ids import uuid_of
from infrastructure.observability.metrics import Metrics
from projections.rebuild.view_builds import ViewBuilds
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS, POSITIONS_COLLECTION
from scripts.stores import Stores
from scripts.verify import verify
from tests.fixtures.postgres_tools import dump_custom, restore_over
from tests.projections.test_rebuild import rebuild_of
from tests.projections.world import World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer
from tests.servers import EMPTY_TABLES

TENANT = "default"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.dump"


async def dump(world: World, backup: Path) -> None:
    await asyncio.to_thread(dump_custom, world.settings.postgres_url, backup)


async def restore(world: World, backup: Path) -> None:
    await asyncio.to_thread(restore_over, world.settings.postgres_url, backup)


async def remove_rows(world: World, where: str, *parameters: object) -> None:
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url, autocommit=True) as connection:
        await connection.execute(f"DELETE FROM events WHERE {where}".encode(), parameters)


async def texts(api: httpx.AsyncClient, conversation_id: str) -> list[str]:
    """The texts of the items, oldest first. If the status is not 200, only the status."""
    answer = await api.get(f"/v1/conversations/{conversation_id}/items?order=asc&limit=100")
    assert "x-consistency" not in answer.headers
    if answer.status_code != 200:
        return [str(answer.status_code)]
    return [item["content"][0]["text"] for item in answer.json()["data"]]


async def test_views_ahead_of_an_emptied_log_start_over(write: Writer, live: World) -> None:
    for _ in range(5):
        await write.start("lost")
    await live.until(live.caught_up)

    with capture_logs() as logged:
        with psycopg.connect(live.settings.postgres_url, autocommit=True) as connection:
            connection.execute(EMPTY_TABLES)
        log = EventLog(live.settings.postgres_url, Metrics())
        log.open()
        kept = await Writer(log).start("kept")
        await live.until(live.caught_up)
        await Writer(log).append(kept, "new")
        await live.until(live.caught_up)
        await log.close()

    assert await live.matches_log()
    started_over = {entry["projection"] for entry in logged if entry["event"] == "projection_started_over"}
    assert started_over == set(ALL_VIEWS)


async def test_reads_answer_503_after_a_restore_until_the_views_are_rebuilt(
    write: Writer, world: World, backup: Path
) -> None:
    conversation = await write.start("kept")
    other = await write.start("also kept")
    await dump(world, backup)
    await write.append(conversation, *(f"lost {number}" for number in range(5)))
    await world.catch_up()
    async with open_api(world.settings) as api:
        await restore(world, backup)
        await write.append(conversation, *(f"new {number}" for number in range(9)))
        lost = await world.view_positions()
        assert {position.position < await world.reader.last_position() for position in lost} == {True}

        before = list(await asyncio.gather(texts(api, conversation), texts(api, other)))
        status = (await api.get("/v1/projections")).json()["data"]
        result = await verify(
            Stores(world.settings, world.pool, world.reader, world.database, world.redis), lambda *_: None, wait=0
        )
        await world.catch_up()
        after = [await texts(api, conversation), await texts(api, other)]

    assert before == [["503"], ["503"]]
    assert {view["state"] for view in status} == {"stale"}
    assert {each.where for each in result.differences if each.what == "stale"} == set(ALL_VIEWS)
    assert after == [["kept", *(f"new {number}" for number in range(9))], ["also kept"]]
    assert await world.matches_log()


async def test_no_lost_item_is_shown_after_a_restore_under_a_running_projector(
    write: Writer, live: World, backup: Path
) -> None:
    conversation = await write.start("kept")
    await dump(live, backup)
    await write.append(conversation, "lost")
    await live.until(live.caught_up)
    seen: list[list[str]] = []
    async with open_api(live.settings) as api:
        restored = asyncio.create_task(restore(live, backup))
        while not restored.done():
            answer = await api.get(f"/v1/conversations/{conversation}/items")
            assert answer.status_code in (200, 503), answer.text
        await restored
        for number in range(3):
            await write.append(conversation, f"new {number}")
            seen.append(await texts(api, conversation))
        await live.until(live.caught_up)
        seen.append(await texts(api, conversation))
    assert seen[-1] == ["kept", "new 0", "new 1", "new 2"]
    assert all(shown in (["503"], seen[-1][: len(shown)]) for shown in seen)
    assert await live.matches_log()


async def test_views_are_built_again_after_a_row_was_removed(write: Writer, world: World) -> None:
    shortened = await write.start("one", "two")
    await write.start("newer")
    await world.catch_up()
    await remove_rows(world, "originator_id = %s AND originator_version = 3", uuid_of(shortened))
    async with open_api(world.settings) as api:
        before = await texts(api, shortened)
        await world.catch_up()
        after = await texts(api, shortened)
    assert (before, after) == (["503"], ["one"])
    assert await world.matches_log()


async def test_a_restart_of_postgres_starts_no_view_over(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    await world.catch_up()
    collections = {position.collection for position in await world.view_positions()}
    before = (await world.reader.end()).incarnation
    earlier = f"{before.rpartition('/')[0]}/1.5"  # as if Postgres had started at another time
    await world.database[POSITIONS_COLLECTION].update_many({}, {"$set": {"incarnation": earlier}})
    async with open_api(world.settings) as api:
        assert await texts(api, conversation) == ["one"]
        assert (await api.get("/v1/conversations")).status_code == 200
        with capture_logs() as logged:
            await write.append(conversation, "two")
            await world.catch_up()
        assert await texts(api, conversation) == ["one", "two"]
    assert [entry for entry in logged if entry["event"] == "projection_started_over"] == []
    positions = await world.view_positions(ALL_VIEWS)
    assert {position.incarnation for position in positions} == {before}
    assert {position.collection for position in positions} >= collections


async def test_positions_that_earlier_code_wrote_are_read_and_completed(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    await world.catch_up()
    await world.database[POSITIONS_COLLECTION].update_many({}, {"$unset": {"incarnation": "", "chain_hash": ""}})
    async with open_api(world.settings) as api:
        assert await texts(api, conversation) == ["one"]
        await world.catch_up()
        assert await texts(api, conversation) == ["one"]
    end = await world.reader.end()
    assert {position.log_position for position in await world.view_positions(ALL_VIEWS)} == {end}
    assert await world.matches_log()


async def test_a_feed_reads_its_kept_batches_again_after_the_log_moved_back(write: Writer, world: World) -> None:
    kept, lost = await write.start("kept"), await write.start("lost")
    feed = Feed(world.reader)
    before = await feed.after(0)
    await remove_rows(world, "originator_id = %s", uuid_of(lost))
    end = await feed.end()
    after = await feed.after(0)
    assert {logged.conversation_id for logged in before.events} == {kept, lost}
    assert {logged.conversation_id for logged in after.events} == {kept}
    assert {logged.incarnation for logged in after.events} == {end.incarnation}
    assert end.incarnation != before.incarnation


async def test_a_late_snapshot_of_lost_events_is_not_used_and_is_replaced(
    write: Writer, world: World, backup: Path
) -> None:
    conversation = await write.start("kept")
    await dump(world, backup)
    await write.append(conversation, "lost")
    late = await snapshot_from_log(world.reader, conversation, 3)
    assert late is not None
    await restore(world, backup)
    await write.append(conversation, "new")
    await world.catch_up()
    assert await put_snapshot(world.redis, TENANT, conversation, late)
    async with open_api(world.settings) as api:
        answer = await api.get(f"/v1/conversations/{conversation}/context?model=gpt-4o")
    shown = [item["item"]["content"][0]["text"] for item in answer.json()["items"]]
    assert shown == ["kept", "new"]
    await write.append(conversation, "newer")
    await world.catch_up()
    assert await world.matches_log()


async def test_a_rebuild_continued_after_the_log_moved_back_has_no_difference(
    write: Writer, world: World, backup: Path
) -> None:
    conversation = await write.start("kept")
    await dump(world, backup)
    await write.append(conversation, "lost")
    await world.catch_up()
    rebuild = rebuild_of(world, ["items"])
    started = await ViewBuilds(world.database).start(["items"], await world.reader.end(), 1)
    await rebuild.backfill(started)
    await restore(world, backup)
    await write.append(conversation, "new")
    await world.catch_up(MONGO_VIEWS)
    result = await rebuild_of(world, ["items"]).run()
    assert [comparison.different for comparison in result.compared] == [0]
    assert await world.documents() == await world.expected_documents()
