"""The backfill fills a new build of a view from the log."""

import asyncio
from collections.abc import Sequence
from random import randbytes

import psycopg
import pytest
from psycopg import sql

from domain.commands import DescribeConversation, GiveFeedback
from infrastructure.ids import mint
from projections.rebuild.backfill import BackfillTask, PageSizes, backfill
from projections.rebuild.view_builds import ViewBuild, ViewBuilds
from projections.views.catalog import MONGO_VIEWS, USAGE, MongoView
from projections.views.partitions import ALL_PARTITIONS
from tests.projections.history import write_many_kinds
from tests.projections.test_rebuild import rebuild_of
from tests.projections.world import World
from tests.queries.writer import Writer


def _task(
    world: World, builds: Sequence[ViewBuild], *, pages: PageSizes, rows_per_fetch: int | None = None
) -> BackfillTask:
    default = BackfillTask.__struct_defaults__[-1]
    return BackfillTask(
        postgres_url=world.settings.postgres_url,
        mongodb_url=world.settings.mongodb_url,
        database=world.database.name,
        collections={build.view: build.collection for build in builds},
        parked=frozenset(),
        number=0,
        partitions=tuple(ALL_PARTITIONS),
        after=0,
        target=builds[0].target,
        incarnation=builds[0].incarnation,
        pages=pages,
        rows_per_fetch=rows_per_fetch or default,
    )


async def _start(world: World, builds: ViewBuilds, views: Sequence[MongoView] = MONGO_VIEWS) -> list[ViewBuild]:
    return await builds.start(views, await world.reader.end(), workers=1)


async def _reports(task: BackfillTask) -> int:
    return len(await asyncio.to_thread(lambda: list(backfill(task))))


@pytest.mark.parametrize("pages", [PageSizes(positions=1), PageSizes(part_bytes=1)], ids=["positions", "bytes"])
async def test_pages_that_are_written_again_add_nothing_twice(pages: PageSizes, write: Writer, world: World) -> None:
    conversation = await write.start("one")
    await write.execute(conversation, DescribeConversation(title="T"))
    [item_id] = await write.append(conversation, "two")
    await write.execute(conversation, GiveFeedback(feedback_id=mint("fb"), by="ann", item_id=item_id, rating=1))
    await write.reply(conversation)
    await world.catch_up()
    builds = ViewBuilds(world.database, pages)
    task = _task(world, await _start(world, builds), pages=pages)
    for _ in range(2):
        await _reports(task)
    await builds.finish_backfill(MONGO_VIEWS)
    result = await rebuild_of(world).run()
    assert [comparison.different for comparison in result.compared] == [0] * len(MONGO_VIEWS)
    assert await world.documents() == await world.expected_documents()


async def test_a_page_of_large_events_is_written_in_parts(write: Writer, world: World) -> None:
    conversation = await write.start(*["x" * 100_000] * 9)
    await write.delete(await write.start(*["y" * 100_000] * 9))
    await write.append(conversation, "z" * 100_000)
    await world.catch_up()
    pages = PageSizes(part_bytes=350_000)
    builds = ViewBuilds(world.database, pages)
    task = _task(world, await _start(world, builds), pages=pages)
    await world.database.command("profile", 2)
    assert await _reports(task) == 1
    await world.database.command("profile", 0)
    inserts = {"op": "insert", "ns": f"{world.database.name}.{task.collections['items']}"}
    sizes = [entry["ninserted"] async for entry in world.database["system.profile"].find(inserts)]
    assert sizes == [3, 3, 3, 3, 3, 1]  # the last three y are deleted in the same part, so they are not inserted
    await builds.finish_backfill(MONGO_VIEWS)
    result = await rebuild_of(world).run()
    assert [comparison.different for comparison in result.compared] == [0] * len(MONGO_VIEWS)


async def test_a_page_that_takes_longer_than_the_statement_timeout_is_written(write: Writer, world: World) -> None:
    conversation = await write.start()
    for _ in range(30):
        await write.append(conversation, randbytes(700_000).hex())  # more than the sockets' buffers hold
    pages = PageSizes(part_bytes=1)
    task = _task(world, await _start(world, ViewBuilds(world.database, pages)), pages=pages, rows_per_fetch=1)
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        await connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '50ms'").format(name))
        try:
            assert await _reports(task) == 1
        finally:
            await connection.execute(sql.SQL("ALTER DATABASE {} RESET statement_timeout").format(name))


async def test_a_rebuild_after_a_build_with_other_page_sizes_has_no_difference(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    pages = PageSizes(positions=3)
    task = _task(world, await _start(world, ViewBuilds(world.database, pages), [USAGE]), pages=pages)
    await _reports(task)
    result = await rebuild_of(world, [USAGE]).run()
    assert [comparison.different for comparison in result.compared] == [0]
