"""`upgrade_views` rebuilds views of a lower version. Older code refuses views of newer code."""

import asyncio

import httpx
import pytest

from infrastructure.event_log.migrate import DataIsNewer
from projections.rebuild.upgrade import upgrade_views
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, VERSIONS
from projections.views.view_position import BUILD_SUFFIX
from tests.projections.history import write_many_kinds
from tests.projections.test_rebuild import collections, rebuild_of
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer


async def upgrade(world: World) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await upgrade_views(world.settings, world.pool, world.database, world.projector)


async def _make_outdated(world: World, view: str) -> None:
    await world.database[POSITIONS_COLLECTION].update_many({"view": view}, {"$set": {"version": 0}})


async def test_only_a_view_of_a_lower_version_is_rebuilt(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    await upgrade(live)
    assert await collections(live) == {view: view for view in MONGO_VIEWS}
    await _make_outdated(live, "items")
    await upgrade(live)
    assert await collections(live) == {view: view for view in MONGO_VIEWS} | {"items": "items_2"}
    assert await live.matches_log()


async def test_reads_that_an_outdated_view_cannot_answer_are_a_503(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    await _make_outdated(live, "usage")
    await _make_outdated(live, "conversations")
    new = ["/v1/usage", "/v1/conversations?order_by=activity", "/v1/conversations?archived=true"]
    async with open_api(live.settings) as api:
        behind = [await _answer(live, api, path) for path in new]
        assert {(answer.status_code, answer.json()["error"]["code"]) for answer in behind} == {
            (503, "read_models_behind")
        }
        assert (await _answer(live, api, "/v1/conversations")).json()["data"]
        await upgrade(live)
        assert [(await _answer(live, api, path)).status_code for path in new] == [200] * 3


async def _answer(live: World, api: httpx.AsyncClient, path: str) -> httpx.Response:
    """The first answer for which MongoDB was fast enough. On a busy machine it may exceed a time limit."""
    answers: list[httpx.Response] = []

    async def is_available() -> bool:
        answers.append(await api.get(path))
        return "read_models_unavailable" not in answers[-1].text

    await live.until(is_available)
    return answers[-1]


async def test_an_upgrade_is_retried_after_a_write_conflict(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await rebuild_of(world, ["items"]).run()
    await _make_outdated(world, "items")
    aborted = await _aborted_transactions(world)
    async with world.client.start_session() as session:
        await session.start_transaction()
        where = {"_id": f"items{BUILD_SUFFIX}/0"}
        await world.database[POSITIONS_COLLECTION].update_one(where, {"$inc": {"held": 1}}, session=session)
        upgrading = asyncio.create_task(upgrade(world))

        async def has_conflicted() -> bool:
            return await _aborted_transactions(world) > aborted

        await world.until(has_conflicted)
        assert not upgrading.done()
        await session.abort_transaction()
    await upgrading
    assert (await collections(world))["items"] != "items_2"
    assert await world.documents() == await world.expected_documents()


@pytest.mark.parametrize("view", ["items", f"items{BUILD_SUFFIX}"])
async def test_older_code_neither_updates_nor_rebuilds_a_view_of_newer_code(
    write: Writer, world: World, view: str
) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    positions = world.database[POSITIONS_COLLECTION]
    if view != "items":
        documents = await positions.find({"view": "items"}).to_list()
        await positions.insert_many(
            [{**document, "_id": f"{view}/{document['bucket']}", "view": view} for document in documents]
        )
    await positions.update_many({"view": view}, {"$set": {"version": VERSIONS["items"] + 1}})
    before = await positions.find({"view": view}).to_list()
    with pytest.raises(DataIsNewer, match=f"items in version {VERSIONS['items'] + 1};"):
        await rebuild_of(world, ["items"]).run()
    await write.start("after")
    with pytest.raises(ExceptionGroup) as ended:
        await world.projector().run(asyncio.Event())
    assert ended.group_contains(DataIsNewer)
    assert await positions.find({"view": view}).to_list() == before


async def _aborted_transactions(world: World) -> int:
    status = await world.client.admin.command("serverStatus")
    return int(status["transactions"]["totalAborted"])
