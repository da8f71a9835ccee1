"""`verify` reports changes of views, of the log and of the tables beside the log."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from msgspec.structs import replace

from context.copies import VIEW_FIELDS
from context.last_requests import MAX_LAST_REQUESTS
from context.snapshots import snapshot_keys
from domain.commands import DeleteConversation, DescribeConversation, PinItem
from domain.conversation import RunningReply, fold
from domain.events import Fork, SentSequence, SequencePoint
from infrastructure.event_log.streams import Stream, to_snapshot
from infrastructure.ids import mint, uuid_of
from projections.views.catalog import ALL_VIEWS, CONTEXT
from scripts.stores import Stores
from scripts.verification.differences import Difference, fields_that_differ
from scripts.verify import Verified, verify
from tests.projections.history import write_many_kinds
from tests.projections.world import World
from tests.queries.writer import Writer

Change = Callable[[World, dict[str, str]], Awaitable[None]]


def _snapshot_hash(conversation_id: str) -> str:
    return snapshot_keys("default", conversation_id)[0]


def _snapshot_list(conversation_id: str) -> str:
    return snapshot_keys("default", conversation_id)[1]


async def _verify(world: World, only: str | None = None, wait: float = 0.0) -> Verified:
    stores = Stores(world.settings, world.pool, world.reader, world.database, world.redis)
    return await verify(stores, lambda _done, _total: None, only=only, wait=wait)


async def _change_log(world: World, sql: str, *parameters: Any) -> None:
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url) as connection:
        await connection.execute(sql.encode(), parameters)


@asynccontextmanager
async def _undone_in_postgres(world: World, table: str) -> AsyncIterator[None]:
    """Writes the rows of the table back after the block, without triggers."""
    async with (
        await psycopg.AsyncConnection.connect(world.settings.postgres_url) as connection,
        connection.cursor().copy(f"COPY {table} TO STDOUT") as rows,
    ):
        saved = b"".join([bytes(row) async for row in rows])
    yield
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(f"DELETE FROM {table}")
        async with connection.cursor().copy(f"COPY {table} FROM STDIN") as rows:
            await rows.write(saved)


@asynccontextmanager
async def _undone_in_views(world: World) -> AsyncIterator[None]:
    views = await world.documents()
    keys: dict[bytes, Any] = {name: await world.redis.dump(name) async for name in world.redis.scan_iter()}
    yield
    for view, documents in views.items():
        await world.database[view].delete_many({})
        if documents:
            await world.database[view].insert_many(documents.values())
    await world.redis.flushdb()
    for name, value in keys.items():
        await world.redis.restore(name, 0, value)


async def test_views_that_keep_up_have_no_difference(write: Writer, world: World) -> None:
    for _ in range(3):
        await write_many_kinds(write)
    await world.catch_up()
    verified = await _verify(world)
    assert verified.differences == []
    assert verified.ok
    assert (verified.events, verified.conversations) == (await world.reader.last_position(), 36)
    assert (verified.snapshots, verified.snapshots_absent) == (36, 0)
    assert verified.documents == {view: len(documents) for view, documents in (await world.documents()).items()}


async def test_missing_snapshots_are_no_difference(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await world.redis.flushdb()
    verified = await _verify(world)
    assert verified.ok
    assert (verified.snapshots, verified.snapshots_absent) == (0, 12)


async def test_forks_with_retracted_pins_have_no_difference(write: Writer, world: World) -> None:
    origin = await write.start("one", "two")
    fork = Fork(conversation_id=origin, item_id="msg_two", version=3, depth=2)
    conversation = await write.start(forked_from=fork)
    [pinned] = await write.append(conversation, "a")
    await write.execute(conversation, PinItem(item_id=pinned))
    await write.retract(conversation, pinned)
    await world.catch_up()
    verified = await _verify(world)
    assert (verified.differences, verified.snapshots) == ([], 2)


async def test_summaries_that_deletions_in_other_conversations_withdraw_are_no_difference(
    write: Writer, world: World
) -> None:
    origin = await write.start("one")
    [deleted] = await write.append(origin, "two")
    fork = Fork(conversation_id=origin, item_id=deleted, version=3, depth=2)
    forked, with_copy = await write.start(forked_from=fork), await write.start("copy")
    for conversation, originals in ((forked, ()), (with_copy, (deleted,))):
        first, _ = await write.append(conversation, "a", "b")
        await write.compact(conversation, first, 2, originals=originals)
    await world.catch_up()
    await write.retract(origin, deleted)
    await world.catch_up()
    verified = await _verify(world)
    assert (verified.differences, verified.snapshots) == ([], 3)
    for conversation in (forked, with_copy):  # the change of instructions makes the snapshot again
        await write.execute(conversation, DescribeConversation(instructions="Be brief."))
    await world.catch_up()
    verified = await _verify(world)
    assert (verified.differences, verified.snapshots) == ([], 3)


async def test_views_that_are_waited_for_have_no_difference(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    for _ in range(5):
        await write_many_kinds(write)
        verified = await _verify(live, wait=20.0)
        assert verified.differences == []


async def test_views_that_are_behind_are_reported(write: Writer, world: World) -> None:
    await write.start("one")
    await world.catch_up()
    await write.start("two")
    verified = await _verify(world)
    assert {(difference.where, difference.what, difference.note) for difference in verified.differences} == {
        (view, "behind", "at 2 of 4") for view in ALL_VIEWS
    }


async def _change_title(world: World, ids: dict[str, str]) -> None:
    await world.database["conversations"].update_one({"id": ids["plain"]}, {"$set": {"title": "else"}})


async def _lose_item(world: World, ids: dict[str, str]) -> None:
    await world.database["items"].delete_one({"conversation_id": ids["retracted"], "depth": 2})


async def _add_item(world: World, ids: dict[str, str]) -> None:
    item = await world.database["items"].find_one({"conversation_id": ids["plain"]})
    assert item is not None
    await world.database["items"].insert_one({**item, "_id": "default:msg_planted"})


async def _keep_deleted_item(world: World, ids: dict[str, str]) -> None:
    item = await world.database["items"].find_one({"conversation_id": ids["plain"]})
    assert item is not None
    await world.database["items"].insert_one({**item, "_id": "x:1", "conversation_id": ids["deleted"]})


async def _add_stray_item(world: World, ids: dict[str, str]) -> None:
    await world.database["items"].insert_one({"_id": "y:1", "tenant": "default", "conversation_id": mint("conv")})


async def _change_usage(world: World, ids: dict[str, str]) -> None:
    await world.database["responses"].update_one(
        {"conversation_id": ids["answered"], "status": "completed"}, {"$inc": {"usage.input_tokens": 1}}
    )


async def _change_total(world: World, ids: dict[str, str]) -> None:
    await world.database["usage"].update_one({"tenant": "default"}, {"$inc": {"output_tokens": -1}})


async def _change_snapshot(world: World, ids: dict[str, str]) -> None:
    await world.redis.hset(_snapshot_hash(ids["plain"]), "settings", '{"instructions":"Be long."}')


async def _lose_snapshot_item(world: World, ids: dict[str, str]) -> None:
    await world.redis.rpop(_snapshot_list(ids["plain"]))


async def _miscount_snapshot_item(world: World, ids: dict[str, str]) -> None:
    element: Any = await world.redis.lindex(_snapshot_list(ids["plain"]), 0)
    miscounted = element.replace(b",5,1,", b",6,1,")
    assert miscounted != element
    await world.redis.lset(_snapshot_list(ids["plain"]), 0, miscounted)


async def _miscount_snapshot_bytes(world: World, ids: dict[str, str]) -> None:
    await world.redis.hset(_snapshot_hash(ids["pinned"]), "bytes", 1)


async def _claim_that_a_fork_has_all_items(world: World, ids: dict[str, str]) -> None:
    await world.redis.hset(_snapshot_hash(ids["forked"]), "first", 1)


async def _age_snapshot(world: World, ids: dict[str, str]) -> None:
    await world.redis.hset(_snapshot_hash(ids["plain"]), "version", 2)


async def _break_snapshot(world: World, ids: dict[str, str]) -> None:
    await world.redis.lset(_snapshot_list(ids["plain"]), 0, "{")


async def _replace_snapshot(world: World, ids: dict[str, str]) -> None:
    await world.redis.set(_snapshot_hash(ids["plain"]), "x")


async def _add_stray_snapshot(world: World, ids: dict[str, str]) -> None:
    await world.redis.hset(_snapshot_hash(mint("conv")), "version", 2)


async def _add_stray_snapshot_list(world: World, ids: dict[str, str]) -> None:
    await world.redis.rpush(_snapshot_list(mint("conv")), "")


VIEW_CHANGES: Sequence[tuple[Change, str, str]] = [
    (_change_title, "conversations", "different"),
    (_lose_item, "items", "missing"),
    (_add_item, "items", "extra"),
    (_keep_deleted_item, "items", "extra"),
    (_add_stray_item, "items", "extra"),
    (_change_usage, "responses", "different"),
    (_change_total, "usage", "different"),
    (_change_snapshot, CONTEXT, "different"),
    (_lose_snapshot_item, CONTEXT, "different"),
    (_miscount_snapshot_item, CONTEXT, "different"),
    (_miscount_snapshot_bytes, CONTEXT, "different"),
    (_claim_that_a_fork_has_all_items, CONTEXT, "different"),
    (_age_snapshot, CONTEXT, "stale"),
    (_break_snapshot, CONTEXT, "unreadable"),
    (_replace_snapshot, CONTEXT, "unreadable"),
    (_add_stray_snapshot, CONTEXT, "extra"),
    (_add_stray_snapshot_list, CONTEXT, "extra"),
]


async def test_verify_reports_exactly_the_change_in_a_view(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    for change, where, what in VIEW_CHANGES:
        async with _undone_in_views(world):
            await change(world, ids)
            verified = await _verify(world)
        assert [(difference.where, difference.what) for difference in verified.differences] == [(where, what)], change
        assert not verified.ok
    assert (await _verify(world)).ok


LOG_CHANGES = [
    (
        "UPDATE events SET state = state || 'x' WHERE originator_id = %s AND originator_version = 3",
        {"chain", "unreadable"},
    ),
    ("UPDATE events SET subject = 'else' WHERE originator_id = %s AND originator_version = 2", {"chain"}),
    ("UPDATE events SET chain_hash = '\\x00' WHERE originator_id = %s AND originator_version = 1", {"chain"}),
    (
        "UPDATE events SET recorded_at = 'epoch' WHERE originator_id = %s AND originator_version = 3",
        {"chain", "time"},
    ),
    ("DELETE FROM events WHERE originator_id = %s AND originator_version = 2", {"chain", "version"}),
]


async def test_a_change_in_the_log_is_reported(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    for sql, what in LOG_CHANGES:
        async with _undone_in_postgres(world, "events"):
            await _change_log(world, sql, uuid_of(ids["plain"]))
            verified = await _verify(world)
        in_log = [difference for difference in verified.differences if difference.where == "log"]
        assert {difference.what for difference in in_log} == what, sql
        assert {difference.conversation_id for difference in in_log} == {ids["plain"]}
    assert not [difference for difference in (await _verify(world)).differences if difference.where == "log"]


SNAPSHOT = "INSERT INTO snapshots VALUES (%s, %s, %s)"
ADD_KEY = (
    "INSERT INTO idempotency_keys (tenant_id, subject, key, fingerprint, command_id, conversation_id, version, position, answer)"
    " SELECT tenant_id, subject, 'k', '', command_id, originator_id, originator_version, notification_id, ''"
    " FROM events WHERE originator_id = %s AND originator_version = 2"
)

ADD_PREFIX = (
    "INSERT INTO transcript_prefixes (tenant_id, hash, conversation_id, version, item_id, depth, answered)"
    " SELECT tenant_id, 'hash', originator_id, originator_version, item_id, 1, true"
    " FROM events WHERE originator_id = %s AND topic = 'item.appended' ORDER BY originator_version DESC LIMIT 1"
)
"""A prefix that ends with the conversation's last item."""


async def _snapshot_of(world: World, conversation_id: str, **changes: Any) -> tuple[Any, ...]:
    """The row of a stream snapshot at the last version, with these changes."""
    events = await world.reader.conversation(conversation_id, limit=1_000)
    state = fold(recorded.event for recorded in events)
    assert state is not None
    async with await psycopg.AsyncConnection.connect(world.settings.postgres_url) as connection:
        rows = await connection.execute(
            "SELECT chain_hash FROM events WHERE originator_id = %s ORDER BY originator_version DESC LIMIT 1",
            [uuid_of(conversation_id)],
        )
        [(chain_hash,)] = await rows.fetchall()
    of_stream = {name: value for name, value in changes.items() if name in Stream.__struct_fields__}
    of_state = {name: value for name, value in changes.items() if name not in of_stream}
    stream = Stream(state, events[-1].position, events[-1].recorded_at, chain_hash)
    stream = replace(stream, state=replace(state, **of_state), **of_stream)
    return uuid_of(conversation_id), stream.state.version, to_snapshot(stream)


async def test_a_tenants_position_before_its_newest_event_is_reported(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await _change_log(world, "UPDATE tenant_positions SET position = position - 1")
    differences = (await _verify(world)).differences
    assert {(difference.where, difference.what) for difference in differences} == {("table tenant_positions", "behind")}
    assert "default" in {difference.key for difference in differences}


SNAPSHOT_CHANGES: Sequence[tuple[dict[str, Any], list[str], set[str]]] = [
    ({}, [], set[str]()),
    ({"head": "msg_1", "depth": 9, "chain_hash": b"1" * 32}, ["different"], {"head", "depth", "chain_hash"}),
    ({"running": (RunningReply("resp_1"),)}, ["different"], {"running"}),
    ({"position": 1}, ["different"], {"position"}),
    ({"version": 1_000}, ["extra"], set[str]()),
]


async def test_differences_in_a_stream_snapshot_are_reported(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    for changes, what, fields in SNAPSHOT_CHANGES:
        async with _undone_in_postgres(world, "snapshots"):
            await _change_log(world, SNAPSHOT, *await _snapshot_of(world, ids["plain"], **changes))
            verified = await _verify(world)
        assert [(difference.where, difference.what) for difference in verified.differences] == [
            ("table snapshots", kind) for kind in what
        ], changes
        assert {name for difference in verified.differences for name in difference.fields} == fields
        assert verified.tables["snapshots"] == 1


TABLE_CHANGES = [
    ("DELETE FROM responses WHERE conversation_id = %s", "responses", {"missing"}),
    ("UPDATE responses SET running = true WHERE conversation_id = %s", "responses", {"different"}),
    (
        "UPDATE responses SET conversation_id = gen_random_uuid() WHERE conversation_id = %s",
        "responses",
        {"different", "extra"},
    ),
    (
        "INSERT INTO responses (tenant_id, response_id, conversation_id) VALUES ('default', 'resp_lost', %s)",
        "responses",
        {"extra"},
    ),
    (ADD_KEY, "idempotency_keys", set[str]()),
    (f"{ADD_KEY}; UPDATE idempotency_keys SET version = 99", "idempotency_keys", {"extra"}),
    (f"{ADD_KEY}; UPDATE idempotency_keys SET position = 99", "idempotency_keys", {"different"}),
    (f"{ADD_KEY}; UPDATE idempotency_keys SET tenant_id = 'else'", "idempotency_keys", {"different"}),
    (f"{ADD_KEY}; UPDATE idempotency_keys SET subject = 'else'", "idempotency_keys", {"different"}),
    (f"{ADD_KEY}; UPDATE idempotency_keys SET command_id = gen_random_uuid()", "idempotency_keys", {"different"}),
    (ADD_PREFIX, "transcript_prefixes", set[str]()),
    (f"{ADD_PREFIX}; UPDATE transcript_prefixes SET version = 1", "transcript_prefixes", {"extra"}),
    (f"{ADD_PREFIX}; UPDATE transcript_prefixes SET item_id = 'msg_1'", "transcript_prefixes", {"extra"}),
    (f"{ADD_PREFIX}; UPDATE transcript_prefixes SET tenant_id = 'else'", "transcript_prefixes", {"extra"}),
    (
        f"{ADD_PREFIX}; UPDATE transcript_prefixes SET conversation_id = gen_random_uuid()",
        "transcript_prefixes",
        {"extra"},
    ),
]


async def test_verify_reports_exactly_the_change_in_a_table_beside_the_log(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    for sql, where, what in TABLE_CHANGES:
        async with _undone_in_postgres(world, where):
            statement, _, change = sql.partition("; ")
            await _change_log(world, statement, uuid_of(ids["answered"]))
            if change:
                await _change_log(world, change)
            differences = (await _verify(world)).differences
        assert {(difference.where, difference.what) for difference in differences} == {
            (f"table {where}", kind) for kind in what
        }, sql
    assert (await _verify(world)).ok


async def test_more_rows_than_a_page_are_compared(write: Writer, world: World) -> None:
    conversation_id = await write.start("one")
    await world.catch_up()
    await _change_log(
        world,
        "INSERT INTO responses (tenant_id, response_id, conversation_id) SELECT 'default', 'resp_' || n, %s"
        " FROM generate_series(1, 1100) AS n",
        uuid_of(conversation_id),
    )
    await _change_log(
        world,
        "INSERT INTO snapshots SELECT gen_random_uuid(), 1, '' FROM generate_series(1, 1100) AS n",
    )
    verified = await _verify(world)
    assert verified.different == 2200
    assert verified.tables == {
        "snapshots": 1100,
        "responses": 1100,
        "idempotency_keys": 0,
        "transcript_prefixes": 0,
        "contents": 0,
        "content_refs": 0,
    }


async def test_a_prefix_of_a_deleted_item_is_reported(write: Writer, world: World) -> None:
    """A trigger removes such prefixes, so the test adds the prefixes after the deletions."""
    deleted, conversation_id = await write.start("a"), await write.start()
    await write.execute(deleted, DeleteConversation())
    [item_id] = await write.append(conversation_id, "x")
    await write.retract(conversation_id, item_id)
    await world.catch_up()
    for stream in (deleted, conversation_id):
        await _change_log(world, ADD_PREFIX, uuid_of(stream))

    differences = (await _verify(world)).differences

    assert {(one.where, one.what, one.conversation_id, one.note) for one in differences} == {
        ("table transcript_prefixes", "extra", deleted, "its item is deleted"),
        ("table transcript_prefixes", "extra", conversation_id, "its item is deleted"),
    }


async def test_only_the_given_conversation_is_compared(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    await _change_title(world, ids)
    assert (await _verify(world, ids["retracted"])).ok
    verified = await _verify(world, ids["plain"])
    assert (verified.conversations, verified.different) == (1, 1)


async def test_a_difference_in_content_is_reported_without_the_content(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    await _change_title(world, ids)
    (difference,) = (await _verify(world)).differences
    assert difference.fields == {"title": ("None", "sha256:7dd530c4d36d (4 bytes)")}
    assert "else" not in str(difference)
    content = frozenset[str]().union(*VIEW_FIELDS.values())
    shown = fields_that_differ(dict.fromkeys(content, "a secret"), dict.fromkeys(content, "another secret"))
    assert shown.keys() == content
    assert "secret" not in str(shown)


async def test_differences_in_a_snapshot_are_reported_without_content(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    pinned = await write.start("A secret, and a pinned one.")
    (item_id,) = await write.append(pinned, "Another secret.")
    await write.execute(pinned, PinItem(item_id=item_id))
    await write.compact(pinned, item_id, 2, "The summary is a secret, too.")
    await world.catch_up()
    await _miscount_snapshot_item(world, ids)
    settings: Any = await world.redis.hget(_snapshot_hash(pinned), "settings")
    changed = settings.replace(b"Another", b"No").replace(b"The summary", b"This")
    assert len(changed) < len(settings) - 10
    await world.redis.hset(_snapshot_hash(pinned), "settings", changed)
    differences = (await _verify(world)).differences
    assert {difference.conversation_id for difference in differences} == {ids["plain"], pinned}
    printed = "\n".join(map(str, differences))
    assert not [word for word in ("hello", "secret", "content", "The s") if word in printed]


async def test_a_snapshot_with_a_wrong_first_item_is_reported(write: Writer, world: World) -> None:
    conversation = await write.start("words " * 200_000, "two", "three")
    await world.catch_up()
    assert (await _verify(world)).ok
    await world.redis.hset(_snapshot_hash(conversation), "first", 3)
    (difference,) = (await _verify(world)).differences
    assert (difference.where, difference.what) == (CONTEXT, "different")


async def test_older_requests_that_no_reader_looks_at_are_no_difference(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    for number in range(MAX_LAST_REQUESTS + 2):
        point = SequencePoint(1, number, number.to_bytes(8))
        sequence = SentSequence(depth=1, first_depth=1, settings=bytes(4), points=(point,))
        await write.send_sequence(conversation, f"model {number}", sequence)
        await world.catch_up()
    stored: Any = await world.redis.hkeys(_snapshot_hash(conversation))
    assert sum(name.startswith(b"request:") for name in stored) == MAX_LAST_REQUESTS + 2
    assert (await _verify(world)).differences == []


async def test_the_exit_status_and_the_json_report_differences(write: Writer, world: World, tmp_path: Path) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    status, printed = _run(world, tmp_path)
    assert (status, printed["ok"], printed["differences"]) == (0, True, [])
    await _lose_item(world, ids)
    status, printed = _run(world, tmp_path)
    assert (status, printed["ok"]) == (1, False)
    assert [
        (difference["where"], difference["what"], difference["conversation_id"])
        for difference in printed["differences"]
    ] == [("items", "missing", ids["retracted"])]


def _run(world: World, data: Path) -> tuple[int, Any]:
    urls = {name: getattr(world.settings, name.lower()) for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")}
    command = [sys.executable, "-m", "scripts.verify", "--data", str(data), "--json"]
    done = subprocess.run(command, env={**os.environ, **urls}, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_difference_is_printed_as_one_line() -> None:
    assert str(Difference("items", "missing", "conv_1", "t:m", note="why")) == "items  missing  t:m  why"
