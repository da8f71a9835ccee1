"""Rebuilds beside the living: users read on, what was wrong is right, and there is a way back."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from projections.rebuild.backfill import PAGES, BackfillFailed
from projections.rebuild.rebuild import Rebuild
from projections.rebuild.upgrade import renew
from projections.rebuild.view_builds import ViewBuilds
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, USAGE, VERSIONS, MongoView
from projections.views.view_position import BUILD_SUFFIX
from tests.projections.history import write_everything
from tests.projections.poison import cure, poison
from tests.projections.world import SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer


def rebuild_of(world: World, views: Sequence[MongoView] = MONGO_VIEWS, workers: int = 2) -> Rebuild:
    return Rebuild(
        views,
        settings=world.settings,
        pool=world.pool,
        database=world.database,
        redis=world.redis,
        workers=workers,
        report=lambda _phase, _done, _total: None,
    )


async def collections(world: World) -> dict[str, str]:
    return {view: place.collection for view, place in (await world.places()).items() if view in MONGO_VIEWS}


async def test_while_views_are_made_anew_users_read_what_is_current_and_notice_nothing(
    write: Writer, live: World
) -> None:
    await write_everything(write)
    conversation = await write.start("first")
    await live.until(live.shown)
    rebuilt = asyncio.create_task(rebuild_of(live).run())
    seen: list[int] = []

    async def read(api: httpx.AsyncClient) -> None:
        while not rebuilt.done():
            page = await api.get(f"/v1/conversations/{conversation}/items", params={"limit": 100, "order": "asc"})
            assert page.status_code == 200, page.text
            seen.append(len(page.json()["data"]))
            listed = await api.get("/v1/conversations")
            assert listed.status_code == 200, listed.text

    async def append() -> None:
        for number in range(60):
            await write.append(conversation, f"item {number}")
            if rebuilt.done():
                break

    async with open_api(live.settings) as api, asyncio.timeout(SECONDS):
        await asyncio.gather(append(), *(read(api) for _ in range(2)), rebuilt)
    assert seen
    found = await rebuilt
    assert [(each.different, each.digest == each.other_digest) for each in found.compared] == [(0, True)] * len(
        MONGO_VIEWS
    )
    assert await collections(live) == {view: f"{view}_2" for view in MONGO_VIEWS}
    await live.until(live.shown)
    assert await live.is_exact()


async def test_what_was_wrong_is_named_and_gone_and_a_dry_run_leaves_it(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    right = await world.held()
    wrong = next(iter(right["items"]))
    await world.database["items"].update_one({"_id": wrong}, {"$set": {"depth": 77}})
    dry = await rebuild_of(world, ["items"]).run(swaps=False)
    assert [(each.different, each.named) for each in dry.compared] == [(1, [wrong])]
    assert dry.swap_seconds is None
    assert await collections(world) == {view: view for view in MONGO_VIEWS}
    assert await world.database[POSITIONS_COLLECTION].find_one({"view": f"items{BUILD_SUFFIX}"}) is None
    done = await rebuild_of(world, ["items"]).run()
    assert [(each.different, each.named) for each in done.compared] == [(1, [wrong])]
    assert await world.held() == right


async def test_a_way_back_shows_what_came_meanwhile_too(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    assert await rebuild_of(world).roll_back() is None
    await rebuild_of(world).run()
    await write_everything(write)
    await world.catch_up()
    assert (await collections(world))["items"] == "items_2"
    back = await rebuild_of(world).roll_back()
    assert back is not None
    assert [each.different for each in back.compared] == [0] * len(MONGO_VIEWS)
    assert await collections(world) == {view: view for view in MONGO_VIEWS}
    assert await world.held() == await world.folded()
    assert await world.is_sound()
    assert await rebuild_of(world).cancel() == list(MONGO_VIEWS)
    assert "items_2" not in await world.database.list_collection_names()


async def test_of_two_rebuilds_at_once_one_does_nothing(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    both = [rebuild_of(world, ["items"]).run() for _ in range(2)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AnotherRebuild", "Rebuilt"]
    assert (await collections(world))["items"] == "items_2"
    assert await world.is_exact()


async def test_what_is_kept_makes_room_for_the_next(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    for _ in range(3):
        await rebuild_of(world, ["items"]).run()
    names = [name for name in await world.database.list_collection_names() if name.startswith("items")]
    assert sorted(names) == ["items_3", "items_4"]
    assert await world.is_exact()


async def test_a_filling_that_was_broken_off_goes_on_and_writes_nothing_twice(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    until = await world.reader.last_position()
    generations = ViewBuilds(world.database)
    begun = await generations.begin(MONGO_VIEWS, until, 2)
    work = rebuild_of(world)
    await work._fill(begun)
    # As if it was killed after its writes and before the word of them: all of it is written once more.
    again = {"state": "filling", "position": 0, "target": until, "pages": PAGES}
    await world.database[POSITIONS_COLLECTION].update_many(
        {"view": {"$regex": "[+]$"}},
        [{"$set": {**again, "share": {"$mod": ["$bucket", 2]}}}],
    )
    done = await rebuild_of(world).run()
    assert [each.different for each in done.compared] == [0] * len(MONGO_VIEWS)
    assert await world.is_exact()


async def test_a_share_that_can_not_be_filled_says_so_and_changes_nothing(write: Writer, world: World) -> None:
    await write_everything(write)
    await world.catch_up()
    nothing = "mongodb://127.0.0.1:1/nothing?serverSelectionTimeoutMS=200"
    world.settings = world.settings.model_copy(update={"mongodb_url": nothing})
    with pytest.raises(BackfillFailed):
        await rebuild_of(world, ["items"]).run()
    assert await collections(world) == {view: view for view in MONGO_VIEWS}


async def test_a_generation_brought_forward_by_a_projector_is_parked_and_deleted_from_like_any(
    write: Writer, live: World
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    generations = ViewBuilds(live.database)
    begun = await generations.begin(["items"], await live.reader.last_position(), 1)
    await rebuild_of(live, ["items"])._fill(begun)
    conversation = await write.start("later")
    await write.append(conversation, "more")
    await write.delete(conversation)

    async def stands_together() -> bool:
        return not await generations.behind(["items"]) and await live.shown()

    await live.until(stands_together)
    await generations.swap(["items"])
    await live.until(live.shown)
    assert await live.is_exact()


async def test_what_can_not_be_read_is_parked_in_the_new_generation_and_what_can_be_again_is_not(
    write: Writer, world: World
) -> None:
    victim, cured = await write.start("one", "two"), await write.start("three", "four")
    deleted = await write.start("five", "six")
    await write_everything(write)
    await poison(world.settings, victim, 2)
    state = await poison(world.settings, cured, 2)
    await poison(world.settings, deleted, 2)
    await world.catch_up()
    await write.delete(deleted)
    await world.catch_up()
    await cure(world.settings, cured, 2, state)
    done = await rebuild_of(world).run()
    assert [each.different for each in done.compared] == [0] * len(MONGO_VIEWS)
    places = await world.places()
    left = {view: {victim} for view in MONGO_VIEWS} | {USAGE: {victim, deleted}}  # totals may still have to count it
    assert {view: set(places[view].parked) for view in MONGO_VIEWS} == left
    held = await world.held()
    assert sorted(it["depth"] for it in held["items"].values() if it["conversation_id"] == cured) == [1, 2]
    assert not [it for it in held["items"].values() if it["conversation_id"] == deleted]


async def test_a_view_whose_version_rose_is_made_anew_by_the_projector(
    write: Writer, live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_everything(write)
    await live.until(live.shown)
    await renew(live.settings, live.pool, live.database, live.redis)
    assert await collections(live) == {view: view for view in MONGO_VIEWS}
    monkeypatch.setitem(VERSIONS, "items", 2)
    async with asyncio.timeout(SECONDS):
        await renew(live.settings, live.pool, live.database, live.redis)
    assert await collections(live) == {view: view for view in MONGO_VIEWS} | {"items": "items_2"}
    assert await live.is_exact()
