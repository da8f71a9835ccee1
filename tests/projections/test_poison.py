"""An event that cannot be applied parks only its conversation. No event of another conversation is skipped."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import redis.exceptions
from pymongo.errors import BulkWriteError, OperationFailure
from structlog.testing import capture_logs

from context.snapshots import snapshot_keys
from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.feed import Batch
from infrastructure.event_log.recorded import Logged
from projections.context_view import ContextView
from projections.mongo_views import MongoViews
from projections.parking import MAX_PARKED, ViewDiverged, is_caused_by_event, parked_for
from projections.position_advance import PositionMoved
from projections.projector import Projector
from projections.view_store import ViewStore
from projections.views.catalog import ALL_VIEWS, CONTEXT, MONGO_VIEWS, USAGE
from projections.views.partitions import partition_of, position_key
from projections.views.view_position import ViewPosition, view_statuses
from scripts.rebuilding.steps import parked_conversations, rebuild_in_place, repair
from scripts.stores import Stores
from scripts.verify import verify
from tests.projections.history import write_many_kinds
from tests.projections.poison import (
    cure,
    insert_unreadable,
    nothing_parked,
    others_are_exact,
    parked,
    parked_everywhere,
    poison,
)
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.conftest import open_api
from tests.queries.writer import Writer


def stores_of(world: World) -> Stores:
    return Stores(world.settings, world.pool, world.reader, world.database, world.redis)


@asynccontextmanager
async def running(world: World, *projectors: Projector) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(projector.run(stop)) for projector in projectors]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.gather(*tasks)


async def test_an_unreadable_event_parks_only_its_conversation_until_a_repair(write: Writer, world: World) -> None:
    conversation_ids = [
        conversation_id
        for _ in range(10)
        for conversation_id in await asyncio.gather(*(write.start("hello") for _ in range(100)))
    ]
    victim = conversation_ids[501]
    await write.append(victim, "behind", "behind that")
    await asyncio.gather(*(write.append(conversation_id, "again") for conversation_id in conversation_ids[::100]))
    state = await poison(world.settings, victim, 3)
    projector = world.projector()

    async with running(world, projector), open_api(world.settings) as api:
        await world.until(world.caught_up)
        assert await parked_everywhere(world, victim)
        assert await others_are_exact(world, victim)
        assert projector.is_ready

        output = (await api.get("/v1/projections")).json()["data"]
        assert {view["name"]: [entry["conversation_id"] for entry in view["parked"]] for view in output} == {
            view: [victim] for view in ALL_VIEWS
        }
        entry = output[0]["parked"][0]
        assert (entry["version"], entry["type"], entry["error"]) == (3, "item.appended", "UnreadableEvent")
        assert (await verified(world)) == {(view, "parked", victim) for view in ALL_VIEWS} | {
            ("log", "unreadable", victim),
            ("log", "chain", victim),
        }
        path = f"/v1/conversations/{victim}"
        for refused in [await api.get(f"{path}{rest}") for rest in ("", "/items", "/context?model=smol")]:
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "conversation_parked"), refused.url
            assert int(refused.headers["retry-after"]) > 0
        for conversation_id in set(conversation_ids) - {victim}:
            answer = await api.get(f"/v1/conversations/{conversation_id}")
            assert (answer.status_code, answer.json()["id"]) == (200, conversation_id)
        listed = await api.get("/v1/conversations")
        assert (listed.status_code, listed.headers["x-consistency"]) == (200, "parked")
        assert not await world.redis.exists(*snapshot_keys("default", victim))
        await world.until(lambda: _is(_metric(projector) == 1))

        await cure(world.settings, victim, 3, state)
        repaired = await repair(stores_of(world), victim, lambda _done, _total: None)
        assert [(result.view, result.outcome) for result in repaired] == [(view, "repaired") for view in ALL_VIEWS]
        await world.until(world.caught_up)
        assert await nothing_parked(world)
        assert (await api.get(f"{path}/items")).json()["data"][0]["content"][0]["text"] == "behind that"
        assert "x-consistency" not in (await api.get("/v1/conversations")).headers
        assert await verified(world) == set()
        await world.until(lambda: _is(_metric(projector) == 0))
        await write.append(victim, "more")
        await world.until(world.caught_up)

    assert await world.documents() == await world.expected_documents()
    assert (await world.snapshots())[snapshot_keys("default", victim)[0]].version == 5


async def test_a_view_parks_only_the_conversation_in_which_it_diverges(write: Writer, world: World) -> None:
    await world.catch_up()
    await write_many_kinds(write)
    victim = await write.start("to be planted")
    await write.append(victim, "behind")
    await write_many_kinds(write)
    planted = next(
        document
        for document in (await world.expected_documents())["items"].values()
        if document["conversation_id"] == victim
    )
    await world.database["items"].insert_one({**planted, "conversation_id": "conv_else", "item": "people's words"})

    with capture_logs() as logged:
        async with running(world, world.projector()), open_api(world.settings) as api:
            await world.until(world.caught_up)
            item = await api.get(f"/v1/conversations/{victim}/items/{planted['id']}")
            assert (item.status_code, item.json()["error"]["code"]) == (503, "conversation_parked")
            assert (await api.get(f"/v1/conversations/{victim}")).json()["error"]["code"] == "conversation_parked"
            assert (await api.get("/v1/conversations")).headers["x-consistency"] == "parked", (
                "the list shows words of items, and their view is parked"
            )

    parked_now = await parked(world)
    assert {view: set(entries) for view, entries in parked_now.items()} == {"items": {victim}}
    assert (parked_now["items"][victim].version, parked_now["items"][victim].error) == (2, "ViewDiverged")
    entries = [entry for entry in logged if entry["event"] == "projection_parked"]
    assert [(entry["projection"], entry["conversation_id"], entry["version"]) for entry in entries] == [
        ("items", victim, 2)
    ]
    assert "people's words" not in str(parked_now)
    assert await world.documents() != await world.expected_documents()

    results = await repair(stores_of(world), victim, lambda _done, _total: None)
    assert [(result.view, result.outcome, result.parked and result.parked.version) for result in results] == [
        ("items", "parked", 2)
    ]
    await world.database["items"].delete_one({"_id": planted["_id"]})
    await repair(stores_of(world), victim, lambda _done, _total: None)
    await world.catch_up()
    assert await nothing_parked(world)
    assert await world.matches_log()


async def test_a_deleted_conversation_stays_parked_only_in_the_view_usage(write: Writer, world: World) -> None:
    victim = await write.start("secret", "more")
    other = await write.start("stays")
    await world.catch_up()
    await write.append(victim, "poison", "behind")
    await poison(world.settings, victim, 4)
    async with running(world, world.projector()), open_api(world.settings) as api:
        await world.until(lambda: parked_everywhere(world, victim))
        await world.until(world.caught_up)
        assert await world.database["conversations"].count_documents({"id": victim}) == 1
        with capture_logs() as logged:
            await write.delete(victim)
            await world.until(world.caught_up)
        assert set(await parked(world)) == {USAGE}, "the tokens of its replies may not all be counted yet"
        assert (await api.get(f"/v1/conversations/{victim}")).status_code == 404
        listed = await api.get("/v1/conversations")
        assert [conversation["id"] for conversation in listed.json()["data"]] == [other]
        assert "x-consistency" not in listed.headers
    assert {entry["conversation_id"] for entry in logged if entry["event"] == "projection_unparked"} == {victim}
    assert await others_are_exact(world, victim)
    assert await world.database["items"].count_documents({"conversation_id": victim}) == 0
    assert (await world.snapshots())[snapshot_keys("default", victim)[0]].deleted


async def test_an_unreadable_deletion_deletes_the_conversation_from_all_views(write: Writer, live: World) -> None:
    victim = await write.start("secret")
    await live.until(live.caught_up)
    await insert_unreadable(live.settings, victim, "conversation.deleted")
    await live.until(live.caught_up)
    assert await nothing_parked(live)
    assert await live.documents() == {view: {} for view in MONGO_VIEWS}


async def test_one_of_two_projectors_parks_a_conversation_and_both_skip_it(write: Writer, world: World) -> None:
    await world.catch_up()
    with capture_logs() as logged:
        async with running(world, world.projector(), world.projector()):
            victim = await write.start("one")
            version = await insert_unreadable(world.settings, victim)
            await insert_unreadable(world.settings, victim)
            for _ in range(5):
                await write_many_kinds(write)
            await world.until(world.caught_up)
            await write_many_kinds(write)
            await world.until(world.caught_up)
    assert await parked_everywhere(world, victim)
    assert {entries[victim].version for entries in (await parked(world)).values()} == {version}
    assert sorted(entry["projection"] for entry in logged if entry["event"] == "projection_parked") == sorted(ALL_VIEWS)
    assert await others_are_exact(world, victim)


async def test_a_projector_writes_nothing_at_a_position_where_another_projector_parked(
    write: Writer, world: World
) -> None:
    await world.catch_up()
    victim = await write.start("one")
    batch = await world.events()
    stores: dict[str, MongoViews | ContextView] = {
        "items": MongoViews(world.database),
        CONTEXT: ContextView(world.redis, world.reader, world.database),
    }
    for view, store in stores.items():
        view_positions = await world.view_positions([view])
        [view_position] = [
            view_position for view_position in view_positions if view_position.partition == partition_of(victim)
        ]
        await world.positions.park(view_position, victim, parked_for(batch[0], KeyError()))
        with pytest.raises(PositionMoved):
            await world.positions.park(view_position, victim, parked_for(batch[0], KeyError()))
        with pytest.raises(PositionMoved):
            await _apply_and_flush(store, view_positions, batch)
    assert (await world.statuses())["items"].position == 0
    assert (await world.documents())["items"] == {}


async def test_an_event_that_soon_becomes_readable_parks_nothing(write: Writer, world: World) -> None:
    victim = await write.start("one", "two")
    state = await poison(world.settings, victim, 2)
    projector = world.projector()
    async with running(world, projector):
        await world.until(lambda: _is(not projector.is_ready and _position(projector, "items") == 1))
        await cure(world.settings, victim, 2, state)
        await world.until(world.caught_up)
        assert projector.is_ready
    assert await nothing_parked(world)
    assert await world.matches_log()


async def test_a_view_stops_instead_of_parking_too_many_conversations(write: Writer, world: World) -> None:
    await world.catch_up()
    entry = {"tenant": "x", "position": 1, "version": 1, "topic": "t", "error": "E", "message": None, "at": 1}
    victim = await write.start("one", "two")
    partition = partition_of(victim)
    entries = {f"conv_{number:031x}{partition:x}": entry for number in range(MAX_PARKED)}
    name = position_key("items", partition)
    await world.database["projections"].update_one({"_id": name}, {"$set": {"parked": entries}, "$inc": {"epoch": 1}})
    await poison(world.settings, victim, 2)
    await write.start("behind")
    projector = world.projector()
    with capture_logs() as logged:
        async with running(world, projector):
            await world.until(lambda: world.caught_up([view for view in ALL_VIEWS if view != "items"]))
            await asyncio.sleep(3)
            assert view_statuses(projector.view_positions.values())["items"].position == 1
            assert not _is_ready(projector)
            assert any(entry["event"] == "projection_stuck" and entry["parked"] == MAX_PARKED for entry in logged)
            one_less = {"$unset": {f"parked.conv_{0:031x}{partition:x}": ""}, "$inc": {"epoch": 1}}
            await world.database["projections"].update_one({"_id": name}, one_less)
            await world.until(world.caught_up)
            assert _is_ready(projector)
    assert victim in (await world.statuses())["items"].parked


@pytest.mark.parametrize("cured", [True, False])
async def test_a_rebuilt_view_parks_only_conversations_that_are_still_unreadable(
    cured: bool, write: Writer, world: World
) -> None:
    victim = await write.start("one", "two")
    await write_many_kinds(write)
    state = await poison(world.settings, victim, 2)
    await world.catch_up()
    assert await parked_everywhere(world, victim)
    if cured:
        await cure(world.settings, victim, 2, state)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await rebuild_in_place(stores_of(world), ["items"], lambda _done, _total: None)
    still_parked = [view for view in ALL_VIEWS if not cured or view != "items"]
    assert await parked_conversations(stores_of(world), ALL_VIEWS) == {view: [victim] for view in still_parked}
    assert await others_are_exact(world, victim)
    items = (await world.documents())["items"].values()
    assert len([item for item in items if item["conversation_id"] == victim]) == (2 if cured else 0)


@pytest.mark.parametrize(
    ("error", "parks"),
    [
        (UnreadableEvent("x"), True),
        (ViewDiverged("items", "x"), True),
        (KeyError("x"), True),
        (OverflowError("MongoDB can only handle up to 8-byte ints"), True),
        (BulkWriteError({"writeErrors": [{"code": 28}]}), True),
        (BulkWriteError({"writeErrors": [{"code": 28}, {"code": 14031}]}), False),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), False),
        (OperationFailure("not authorized", 13), False),
        (redis.exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"), False),
        (OSError(28, "No space left on device"), False),
        (MemoryError(), False),
    ],
)
def test_only_an_error_that_the_event_causes_parks_its_conversation(error: Exception, parks: bool) -> None:
    assert is_caused_by_event(error) is parks


async def verified(world: World) -> set[tuple[str, str, str | None]]:
    """(where, what, conversation) of each difference."""
    result = await verify(stores_of(world), lambda _done, _total: None)
    assert result.ok is not bool(result.differences)
    return {(difference.where, difference.what, difference.conversation_id) for difference in result.differences}


def _metric(projector: Projector) -> float | None:
    return projector._metrics.registry.get_sample_value("conversation_store_projection_parked")


def _position(projector: Projector, view: str) -> int | None:
    statuses = view_statuses(projector.view_positions.values())
    return statuses[view].position if view in statuses else None


async def _apply_and_flush(store: ViewStore, view_positions: Sequence[ViewPosition], batch: Sequence[Logged]) -> None:
    await store.apply(view_positions, Batch(0, [*batch]))
    await store.flush()


def _is_ready(projector: Projector) -> bool:
    return projector.is_ready


async def _is(condition: bool) -> bool:
    return condition
