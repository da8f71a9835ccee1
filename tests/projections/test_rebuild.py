"""Users read while views are rebuilt. An interrupted rebuild resumes."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from projections.rebuild.backfill import PageSizes
from projections.rebuild.backfill_workers import BackfillFailed
from projections.rebuild.rebuild import Rebuild
from projections.rebuild.view_builds import BuildGone, ViewBuilds
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, USAGE, MongoView
from projections.views.view_position import BUILD_SUFFIX
from tests.projections.history import write_many_kinds
from tests.projections.poison import cure, poison
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer


def rebuild_of(world: World, views: Sequence[MongoView] = MONGO_VIEWS, workers: int = 1) -> Rebuild:
    return Rebuild(
        views,
        settings=world.settings,
        pool=world.pool,
        database=world.database,
        make_projector=world.projector,
        workers=workers,
    )


async def collections(world: World) -> dict[str, str]:
    return {view: status.collection for view, status in (await world.statuses()).items() if view in MONGO_VIEWS}


async def test_every_read_succeeds_while_views_are_rebuilt(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    conversation = await write.start("first")
    await live.until(live.caught_up)
    rebuilt = asyncio.create_task(rebuild_of(live, workers=2).run())
    stored = 1
    seen: list[int] = []

    async def read(api: httpx.AsyncClient) -> None:
        while not rebuilt.done():
            acknowledged = stored
            page = await api.get(f"/v1/conversations/{conversation}/items", params={"limit": 100, "order": "asc"})
            assert page.status_code == 200, page.text
            seen.append(len(page.json()["data"]))
            assert acknowledged <= seen[-1] <= stored + 1
            listed = await api.get("/v1/conversations")
            assert listed.status_code == 200, listed.text

    async def append() -> None:
        nonlocal stored
        for number in range(60):
            await write.append(conversation, f"item {number}")
            stored += 1
            if rebuilt.done():
                break

    async with open_api(live.settings) as api, asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.gather(append(), *(read(api) for _ in range(2)), rebuilt)
    assert seen
    result = await rebuilt
    assert [
        (comparison.different, comparison.live_digest == comparison.build_digest) for comparison in result.compared
    ] == [(0, True)] * len(MONGO_VIEWS)
    assert await collections(live) == {view: f"{view}_2" for view in MONGO_VIEWS}
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_a_rebuild_corrects_a_wrong_document_and_a_dry_run_lists_it(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    right = await world.documents()
    wrong = next(iter(right["items"]))
    await world.database["items"].update_one({"_id": wrong}, {"$set": {"depth": 77}})
    dry_run = await rebuild_of(world, ["items"]).run(swaps=False)
    assert [(comparison.different, comparison.listed) for comparison in dry_run.compared] == [(1, [wrong])]
    assert dry_run.swap_seconds is None
    assert await collections(world) == {view: view for view in MONGO_VIEWS}
    assert await world.database[POSITIONS_COLLECTION].find_one({"view": f"items{BUILD_SUFFIX}"}) is None
    done = await rebuild_of(world, ["items"]).run()
    assert [(comparison.different, comparison.listed) for comparison in done.compared] == [(1, [wrong])]
    assert await world.documents() == right


async def test_after_a_rollback_the_old_collections_show_later_events(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    assert await rebuild_of(world).roll_back() is None
    await rebuild_of(world).run()
    await write_many_kinds(write)
    await world.catch_up()
    assert (await collections(world))["items"] == "items_2"
    rolled_back = await rebuild_of(world).roll_back()
    assert rolled_back is not None
    assert [comparison.different for comparison in rolled_back.compared] == [0] * len(MONGO_VIEWS)
    assert await collections(world) == {view: view for view in MONGO_VIEWS}
    assert await world.documents() == await world.expected_documents()
    assert await world.matches_log_but_may_lack_snapshots()
    assert await rebuild_of(world).cancel() == list(MONGO_VIEWS)
    assert "items_2" not in await world.database.list_collection_names()


async def test_of_two_rebuilds_at_once_one_fails_and_changes_nothing(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    both = [rebuild_of(world, ["items"]).run() for _ in range(2)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AnotherRebuild", "RebuildResult"]
    assert (await collections(world))["items"] == "items_2"
    assert await world.matches_log()


async def test_a_kept_collection_is_dropped_when_the_next_rebuild_starts(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    for _ in range(3):
        await rebuild_of(world, ["items"]).run()
    names = [name for name in await world.database.list_collection_names() if name.startswith("items")]
    assert sorted(names) == ["items_3", "items_4"]
    assert await world.matches_log()


async def test_an_interrupted_backfill_resumes_and_counts_nothing_twice(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    until = await world.reader.end()
    builds = ViewBuilds(world.database)
    started = await builds.start(MONGO_VIEWS, until, 2)
    rebuild = rebuild_of(world, workers=2)
    await rebuild.backfill(started)
    # As if the process was killed before it recorded its progress. All documents are written again.
    not_recorded = {"state": "filling", "position": 0, "target": until.position, "pages": str(PageSizes())}
    await world.database[POSITIONS_COLLECTION].update_many(
        {"view": {"$regex": "[+]$"}},
        [{"$set": {**not_recorded, "share": {"$mod": ["$bucket", 2]}}}],
    )
    done = await rebuild_of(world, workers=2).run()
    assert [comparison.different for comparison in done.compared] == [0] * len(MONGO_VIEWS)
    assert await world.matches_log()


async def test_the_live_views_stay_when_a_backfill_fails(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    nothing = "mongodb://127.0.0.1:1/nothing?serverSelectionTimeoutMS=200"
    world.settings = world.settings.model_copy(update={"mongodb_url": nothing})
    with pytest.raises(BackfillFailed):
        await rebuild_of(world, ["items"]).run()
    assert await collections(world) == {view: view for view in MONGO_VIEWS}


async def test_a_build_that_a_projector_advances_removes_a_deleted_conversation(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    builds = ViewBuilds(live.database)
    started = await builds.start(["items"], await live.reader.end(), 1)
    await rebuild_of(live, ["items"]).backfill(started)
    conversation = await write.start("later")
    await write.append(conversation, "more")
    await write.delete(conversation)

    async def has_caught_up() -> bool:
        return not await builds.differing_positions(["items"]) and await live.caught_up()

    await live.until(has_caught_up)
    await builds.swap(["items"])
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_a_rebuild_parks_unreadable_conversations_and_releases_readable_ones(write: Writer, world: World) -> None:
    victim, readable_again = await write.start("one", "two"), await write.start("three", "four")
    deleted = await write.start("five", "six")
    await write_many_kinds(write)
    await poison(world.settings, victim, 2)
    state = await poison(world.settings, readable_again, 2)
    await poison(world.settings, deleted, 2)
    await world.catch_up()
    await write.delete(deleted)
    await world.catch_up()
    await cure(world.settings, readable_again, 2, state)
    done = await rebuild_of(world).run()
    assert [comparison.different for comparison in done.compared] == [0] * len(MONGO_VIEWS)
    statuses = await world.statuses()
    # The deleted conversation stays parked in `usage`, because the totals may lack its replies.
    still_parked = {view: {victim} for view in MONGO_VIEWS} | {USAGE: {victim, deleted}}
    assert {view: set(statuses[view].parked) for view in MONGO_VIEWS} == still_parked
    stored = await world.documents()
    assert sorted(item["depth"] for item in stored["items"].values() if item["conversation_id"] == readable_again) == [
        1,
        2,
    ]
    assert not [item for item in stored["items"].values() if item["conversation_id"] == deleted]


async def test_an_interrupted_rollback_can_be_resumed_or_replaced_by_a_rebuild(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    wrong = next(iter((await world.documents())["items"]))
    await world.database["items"].update_one({"_id": wrong}, {"$set": {"depth": 77}})
    for resumes in (False, True):
        await rebuild_of(world, ["items"]).run()
        await ViewBuilds(world.database).resume_kept(["items"])
        await world.catch_up()
        if resumes:
            assert await rebuild_of(world, ["items"]).roll_back() is not None
        else:
            await rebuild_of(world, ["items"]).run()
        assert await world.documents() == await world.expected_documents()


async def test_a_swap_and_a_cancel_at_once_do_not_drop_the_live_collection(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    swapping, cancelling = ViewBuilds(world.database), ViewBuilds(world.database)
    started = await swapping.start(["items"], await world.reader.end(), 1)
    await rebuild_of(world, ["items"]).backfill(started)
    await world.catch_up()
    await asyncio.gather(swapping.swap(["items"]), cancelling.drop(["items"]), return_exceptions=True)
    assert await world.documents() == await world.expected_documents()


async def test_a_rebuild_fails_when_its_build_was_removed(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    started = await ViewBuilds(world.database).start(["items"], await world.reader.end(), 1)
    rebuild = rebuild_of(world, ["items"])
    await rebuild.backfill(started)
    [build, *_] = await world.view_positions([f"items{BUILD_SUFFIX}"])
    await world.positions.remove(build)
    with pytest.raises(BuildGone):
        await rebuild.compare()


async def test_the_view_usage_is_not_compared_while_a_conversation_is_parked(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    state = await poison(world.settings, conversation, 2)
    await world.catch_up()
    await write.reply(conversation)
    await world.catch_up()
    await cure(world.settings, conversation, 2, state)
    result = await rebuild_of(world, [USAGE]).run(swaps=False)
    assert [(comparison.different, comparison.live_digest) for comparison in result.compared] == [(0, "")]
