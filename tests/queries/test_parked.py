"""A read is refused if a view that it needs has parked the conversation. A list says `X-Consistency: parked`."""

import asyncio
from threading import Event

import httpx
import pytest

from context.snapshot_store import put_snapshot
from context.snapshots import Snapshot
from infrastructure.access.principal import ANONYMOUS
from infrastructure.http.errors import ApiError
from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS, CONTEXT, POSITIONS_COLLECTION
from projections.views.partitions import partition_of, position_key
from projections.views.writes import document_key
from queries.main import open_dependencies
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer

ENTRY = {"position": 2, "version": 2, "topic": "item.appended", "error": "UnreadableEvent", "message": None, "at": 1}


async def park(projector: ManualProjector, view: str, conversation_id: str, tenant: str = "default") -> None:
    entry = {f"parked.{conversation_id}": {"tenant": tenant, **ENTRY}}
    partition = partition_of(conversation_id)
    new = {"view": view, "bucket": partition, "position": 2, "state": "live", "target": 0, "epoch": 0, "version": 1}
    update = {"$set": entry, "$setOnInsert": {**new, "collection": view}}
    await projector.views[POSITIONS_COLLECTION].update_one({"_id": position_key(view, partition)}, update, upsert=True)


async def unpark(projector: ManualProjector, view: str, conversation_id: str) -> None:
    update = {"$unset": {f"parked.{conversation_id}": ""}, "$inc": {"repairs": 1}}
    await projector.views[POSITIONS_COLLECTION].update_one(
        {"_id": position_key(view, partition_of(conversation_id))}, update
    )


def code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, None if answer.status_code == 200 else answer.json()["error"]["code"]


async def test_a_read_is_refused_if_a_view_it_needs_has_parked_the_conversation(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, other = await write.start(), await write.start("b")
    [item_id] = await write.append(conversation_id, "a")
    response_id, input_items = await write.request_reply(conversation_id, "b")
    await write.complete_reply(conversation_id, response_id, input_items, "c")
    await projector.catch_up()
    await park(projector, "items", conversation_id)

    path = f"/v1/conversations/{conversation_id}"
    parked = (503, "conversation_parked")
    assert code(await api.get(f"{path}/items")) == parked
    assert code(await api.get(f"{path}/items/{item_id}")) == parked
    assert code(await api.get(f"/v1/responses/{response_id}")) == parked
    assert code(await api.get(path)) == parked, "the answer shows the first and the last words"
    assert code(await api.get(f"{path}/events")) == (200, None)
    assert code(await api.get(f"/v1/conversations/{other}/items")) == (200, None)


async def test_a_list_reports_parked_conversations_of_its_tenant_only(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    foreign = await write.for_tenant("others").start("a")
    await projector.catch_up()
    await park(projector, "conversations", foreign, "others")
    unaffected = await api.get("/v1/conversations")
    listed_as_parked = (await api.get("/v1/projections")).json()["data"][0]["parked"]
    await park(projector, "conversations", conversation_id)
    affected = await api.get("/v1/conversations")

    assert (unaffected.status_code, unaffected.headers.get("x-consistency"), listed_as_parked) == (200, None, [])
    assert (affected.status_code, affected.headers["x-consistency"]) == (200, "parked")
    assert [conversation["id"] for conversation in affected.json()["data"]] == [conversation_id]


async def test_a_search_in_a_parked_view_shows_no_retracted_item(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("platypus")
    [retracted] = await write.append(conversation_id, "platypus")
    await projector.catch_up()
    await write.retract(conversation_id, retracted)
    await projector.catch_up()
    await park(projector, "items", conversation_id)
    for view, as_before in (("items", {"retracted_version": None}), ("search", {"retracted": False})):
        await projector.views[view].update_one({"_id": document_key("default", retracted)}, {"$set": as_before})

    answer = await api.get("/v1/search", params={"q": "platypus"})
    assert answer.headers["x-consistency"] == "parked"
    assert [hit["item"] != retracted for hit in answer.json()["data"]] == [True]


async def test_projections_list_parked_conversations_with_the_reason(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await park(projector, "items", conversation_id)
    data = (await api.get("/v1/projections")).json()["data"]
    assert {view["name"]: view["parked"] for view in data if view["parked"]} == {
        "items": [
            {
                "conversation_id": conversation_id,
                "version": 2,
                "position": 2,
                "type": "item.appended",
                "error": "UnreadableEvent",
                "message": None,
                "at": "1970-01-01T00:00:00.000001+00:00",
            }
        ]
    }


async def test_reads_of_parked_conversations_are_also_refused_while_postgres_is_unavailable(
    cut_api: httpx.AsyncClient, settings: Settings, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id, other = await write.start("a"), await write.start("b")
    response_id, input_items = await write.request_reply(conversation_id, "b")
    await write.complete_reply(conversation_id, response_id, input_items, "c")
    await projector.catch_up()
    async with open_dependencies(settings, Event()) as dependencies:
        await put_snapshot(dependencies.redis, "default", conversation_id, Snapshot(version=3))
    for view in ALL_VIEWS:
        await park(projector, view, conversation_id)
    await postgres.cut()

    path = f"/v1/conversations/{conversation_id}"
    parked = (503, "conversation_parked")
    for refused in (path, f"{path}/items", f"/v1/responses/{response_id}", f"{path}/context?model=smol"):
        assert code(await cut_api.get(refused)) == parked, refused
    assert code(await cut_api.get(f"/v1/conversations/{other}")) == (200, None)
    listed = await cut_api.get("/v1/conversations")
    assert (listed.status_code, listed.headers["x-consistency"]) == (200, "unverified, parked")
    await unpark(projector, CONTEXT, conversation_id)
    answer = await cut_api.get(f"{path}/context?model=smol")
    assert (answer.status_code, answer.headers["x-consistency"]) == (200, "unverified")


@pytest.mark.parametrize("repaired", [False, True])
async def test_parking_during_a_read_is_noticed_even_after_a_repair(
    repaired: bool, settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).log
        conversation = await dependencies.consistency.read_conversation(log, conversation_id, "items")
        all_conversations = await dependencies.consistency.read_tenant("default", "items")
        await dependencies.consistency.check(conversation)
        await park(projector, "items", conversation_id)
        if repaired:
            await unpark(projector, "items", conversation_id)
        with pytest.raises(ApiError) as refused:
            await dependencies.consistency.check(conversation)
        await dependencies.consistency.check(all_conversations)

    assert refused.value.code == ("read_models_behind" if repaired else "conversation_parked")
    assert all_conversations.headers == {"x-consistency": "parked"}


async def test_a_read_of_a_parked_conversation_is_refused_without_waiting(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await park(projector, "items", conversation_id)
    async with asyncio.timeout(1):
        assert code(await api.get(f"/v1/conversations/{conversation_id}/items")) == (503, "conversation_parked")
