"""Makes events unreadable, so that their conversations are parked."""

from typing import Any, cast

import psycopg

from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from projections.fold import fold
from projections.views.catalog import ALL_VIEWS, CONVERSATION_VIEWS
from projections.views.view_position import Parked
from tests.projections.world import World

UNREADABLE = b"\x7fnonsense"


async def poison(settings: Settings, conversation_id: str, version: int) -> bytes:
    """Returns the event's stored bytes, for `cure`."""
    return await _swap(settings, conversation_id, version, UNREADABLE)


async def cure(settings: Settings, conversation_id: str, version: int, state: bytes) -> None:
    await _swap(settings, conversation_id, version, state)


async def _swap(settings: Settings, conversation_id: str, version: int, state: bytes) -> bytes:
    event = (uuid_of(conversation_id), version)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        where = "WHERE originator_id = %s AND originator_version = %s"
        row = await (await connection.execute(f"SELECT state FROM events {where}", event)).fetchone()
        await connection.execute(f"UPDATE events SET state = %s {where}", (state, *event))
    assert row is not None
    return cast("bytes", row[0])


async def insert_unreadable(settings: Settings, conversation_id: str, topic: str = "item.sung") -> int:
    """Appends an unreadable event. Returns its version."""
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        cursor = await connection.execute(
            "INSERT INTO events (originator_id, originator_version, topic, state, tenant_id)"
            " SELECT originator_id, originator_version + 1, %s, %s, tenant_id FROM events WHERE originator_id = %s"
            " ORDER BY originator_version DESC LIMIT 1 RETURNING originator_version",
            (topic, UNREADABLE, uuid_of(conversation_id)),
        )
        row = await cursor.fetchone()
        await connection.execute("NOTIFY events")
    assert row is not None
    return cast("int", row[0])


async def parked(world: World) -> dict[str, dict[str, Parked]]:
    return {view: dict(status.parked) for view, status in (await world.statuses()).items() if status.parked}


async def parked_everywhere(world: World, conversation_id: str) -> bool:
    """Whether every view has parked this conversation, and no other."""
    return await _parked_ids(world) == {view: {conversation_id} for view in ALL_VIEWS}


async def nothing_parked(world: World) -> bool:
    return await _parked_ids(world) == {}


async def _parked_ids(world: World) -> dict[str, set[str]]:
    return {view: set(entries) for view, entries in (await parked(world)).items()}


async def others_are_exact(world: World, *conversation_ids: str) -> bool:
    """Whether the documents of all other conversations equal the log. The view `usage` is not compared."""
    events = await world.reader.batch_logged(0, limit=1_000_000, max_bytes=2**40)
    expected: Any = fold(event for event in events if event.conversation_id not in conversation_ids)  # type: ignore[misc]  # the others are readable
    stored = await world.documents()
    return all(
        {key: document for key, document in documents.items() if _conversation_of(document) not in conversation_ids}
        == expected[view]
        for view, documents in stored.items()
        if view in CONVERSATION_VIEWS
    )


def _conversation_of(document: dict[str, Any]) -> Any:
    return document.get("conversation_id") or document["id"]
