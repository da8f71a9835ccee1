"""Each context snapshot equals a snapshot that is made from the log."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from context.history_backwards import recent_items_from_log
from context.last_requests import MAX_LAST_REQUESTS
from context.snapshot_from_log import refill, snapshot_from_log, snapshot_of
from context.snapshot_store import put_snapshot, read_recent_items, read_snapshot, snapshot_lookup
from context.snapshots import (
    MAX_BYTES,
    MAX_FIELDS,
    MAX_ITEMS,
    TOMBSTONE_TTL_SECONDS,
    Snapshot,
    snapshot_keys,
    to_elements,
    to_fields,
)
from domain.commands import DescribeConversation, PinItem, RetractItem, ReviseItem, UnpinItem
from domain.conversation import KnownItem
from domain.events import (
    ContextPolicy,
    ConversationDeleted,
    Fork,
    InheritedSummary,
    Leaf,
    PathBranch,
    SentSequence,
    SequencePoint,
)
from infrastructure.event_log.feed import Batch
from infrastructure.event_log.recorded import Recorded
from projections.context_view import ContextView
from projections.position_advance import PositionMoved
from projections.snapshot_change import snapshot_changes
from projections.views.catalog import CONTEXT
from projections.views.view_position import ViewPosition
from tests.projections.history import write_many_kinds
from tests.projections.world import World
from tests.queries.branched_conversation import BranchedConversation
from tests.queries.writer import Writer, new_items

TENANT = "default"


def _hash(conversation: str) -> str:
    return snapshot_keys(TENANT, conversation)[0]


def _list(conversation: str) -> str:
    return snapshot_keys(TENANT, conversation)[1]


async def _read(world: World, conversation: str) -> Snapshot | None:
    return await read_snapshot(world.redis, TENANT, conversation)


async def _project(world: World, after: int = 0, until: int | None = None) -> None:
    batch = await world.reader.after(after, limit=100_000, until=until)
    await ContextView(world.redis, world.reader, world.database).apply_changes(snapshot_changes(batch))


async def test_a_snapshot_has_what_a_reply_needs(write: Writer, world: World) -> None:
    conversation = await write.start("hello", "you", instructions="Be brief.", context_policy=ContextPolicy(budget=70))
    await write.append(conversation, "there, my friend")
    await _project(world)
    snapshot = await _read(world, conversation)
    assert snapshot is not None
    assert (snapshot.version, snapshot.depth, snapshot.branch, snapshot.first) == (4, 3, 0, 1)
    settings = snapshot.settings
    assert (settings.instructions, settings.policy) == ("Be brief.", ContextPolicy(budget=70))
    items = [(entry.depth, entry.tokens, entry.context_item().item["content"]) for entry in snapshot.items]
    assert items == [
        (1, 5, "hello"),
        (2, 5, "you"),
        (3, 8, "there, my friend"),
    ]
    await _equals_the_log(world, conversation, 1_000_000)


async def test_a_batch_that_is_applied_again_changes_nothing(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await _project(world)
    snapshots = await world.snapshots()
    await _project(world)
    assert await world.snapshots() == snapshots == await world.snapshots_by_log()


async def test_events_applied_one_by_one_give_the_snapshots_of_the_log(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    for recorded in await world.events():
        await _project(world, recorded.position - 1, recorded.position)
    assert await world.snapshots() == await world.snapshots_by_log()


async def test_a_snapshot_is_not_replaced_by_an_older_or_equal_one(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    old = await snapshot_from_log(world.reader, conversation, 1)
    await _project(world)
    snapshot = await _read(world, conversation)
    assert old is not None
    assert not await put_snapshot(world.redis, TENANT, conversation, old)
    assert snapshot is not None
    assert not await put_snapshot(world.redis, TENANT, conversation, snapshot)
    assert await _read(world, conversation) == snapshot


async def test_the_tombstone_of_a_deleted_conversation_refuses_late_writes(write: Writer, world: World) -> None:
    conversation = await write.start("secret")
    await _project(world)
    late = await snapshot_from_log(world.reader, conversation, 2)
    assert late is not None
    await write.delete(conversation)
    await _project(world, 2)
    tombstone = Snapshot(version=3, deleted=True, incarnation=late.incarnation)
    assert await _read(world, conversation) == tombstone
    assert not await put_snapshot(world.redis, TENANT, conversation, late)
    await _project(world, 0, 2)
    assert await _read(world, conversation) == tombstone
    assert 0 < await world.redis.ttl(_hash(conversation)) <= TOMBSTONE_TTL_SECONDS
    assert await world.redis.hlen(_hash(conversation)) == 3
    assert not await world.redis.exists(_list(conversation))


async def test_after_redis_lost_everything_a_change_makes_the_whole_snapshot_again(write: Writer, live: World) -> None:
    changed = await write.start("one", "two", instructions="Be brief.")
    unchanged = await write.start("three")
    await live.until(live.caught_up)
    await live.redis.flushdb()
    await write.append(changed, "four")
    await live.until(live.caught_up)
    snapshot = await _read(live, changed)
    assert snapshot == await snapshot_from_log(live.reader, changed, 4)
    assert await _read(live, unchanged) is None
    assert await refill(live.reader, live.redis, TENANT, unchanged, 2) == await _read(live, unchanged)


async def test_a_snapshot_that_missed_an_event_is_refilled(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    await _project(world)
    await write.append(conversation, "missed")
    await write.append(conversation, "seen")
    await _project(world, 3)
    assert await _read(world, conversation) == await snapshot_from_log(world.reader, conversation, 4)


async def test_a_snapshot_in_the_middle_of_a_batch_gets_the_later_events(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two", "three")
    await refill(world.reader, world.redis, TENANT, conversation, 2)
    await _project(world)
    assert await _read(world, conversation) == await snapshot_from_log(world.reader, conversation, 4)


async def test_only_the_newest_items_of_a_long_conversation_are_kept(write: Writer, world: World) -> None:
    conversation = await write.start(*("x" for _ in range(MAX_ITEMS - 10)))
    await _project(world)
    after = await world.reader.last_position()
    ids = await write.append(conversation, *("y" for _ in range(30)))
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 1_000, 20_000)
    assert (len(snapshot.items), snapshot.first, snapshot.depth) == (MAX_ITEMS, 21, MAX_ITEMS + 20)
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000_000) is None
    after = await world.reader.last_position()
    await write.retract(conversation, ids[3])
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 100)
    assert (len(snapshot.items), snapshot.first) == (MAX_ITEMS - 1, 21)
    after = await world.reader.last_position()
    await write.append(conversation, "z")
    await _project(world, after)
    await _equals_the_log(world, conversation, 0, 100)


async def test_no_more_than_two_megabytes_of_items_are_kept(write: Writer, world: World) -> None:
    conversation = await write.start("words " * 50_000)
    await _project(world)
    for count in (4, 4):
        after = await world.reader.last_position()
        await write.append(conversation, *("words " * 50_000 for _ in range(count)))
        await _project(world, after)
    snapshot = await _equals_the_log(world, conversation)
    assert (len(snapshot.items), snapshot.first) == (6, 4)
    fields: Any = await world.redis.hgetall(_hash(conversation))
    elements: Any = await world.redis.lrange(_list(conversation), 0, -1)
    assert int(fields[b"bytes"]) == sum(map(len, elements)) <= MAX_BYTES
    assert len(elements) == 6


async def test_a_snapshot_has_no_items_if_the_newest_one_is_too_large(write: Writer, world: World) -> None:
    conversation = await write.start("small")
    await _project(world)
    await write.append(conversation, "words " * 340_000)
    await _project(world, 2)
    snapshot = await _equals_the_log(world, conversation)
    assert (snapshot.items, snapshot.first, snapshot.depth) == ((), 3, 2)


@pytest.mark.parametrize("instructions", [None, "New."])
async def test_a_snapshot_has_the_changed_instructions(instructions: str | None, write: Writer, world: World) -> None:
    conversation = await write.start("one", instructions="Old.")
    await _project(world)
    await write.execute(conversation, DescribeConversation(instructions=instructions))
    await _project(world, 2)
    snapshot = await _read(world, conversation)
    assert snapshot is not None
    assert snapshot.settings.instructions == instructions
    assert snapshot == await snapshot_from_log(world.reader, conversation, 3)


async def _equals_the_log(world: World, conversation: str, *token_limits: int) -> Snapshot:
    """Fails if the snapshot differs from one made from the log, or from the one that `verify` expects.

    Also checks the keys in Redis, and the newest items that fit in each of `token_limits`.
    """
    head = await world.reader.head(conversation)
    snapshot = await _read(world, conversation)
    assert head is not None
    assert snapshot is not None
    assert snapshot == await snapshot_from_log(world.reader, conversation, head.version)
    assert snapshot == await snapshot_of(await world.reader.conversation(conversation, limit=100_000))
    stored: Any = await world.redis.hgetall(_hash(conversation))
    assert stored == {name.encode(): str(value).encode() for name, value in to_fields(snapshot).items()}
    elements: Any = await world.redis.lrange(_list(conversation), 0, -1)
    assert elements == to_elements(snapshot)
    for max_tokens in token_limits:
        recent = await read_recent_items(world.redis, TENANT, conversation, max_tokens)
        assert recent is not None
        assert recent.is_at(head.stream_version)
        from_log = await recent_items_from_log(world.reader, conversation, head.version, max_tokens)
        assert replace(recent, chain_hash="", incarnation="") == from_log
    return snapshot


async def test_a_snapshot_has_pinned_items_beside_its_list(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("x" for _ in range(20)))
    for item_id in (ids[-1], ids[0], ids[1]):
        await write.execute(conversation, PinItem(item_id=item_id))
    await _project(world)
    snapshot = await _equals_the_log(world, conversation, 0, 20, 1_000)
    assert [entry.item_id for entry in snapshot.settings.pins] == [ids[0], ids[1], ids[-1]]
    after = await world.reader.last_position()
    await write.execute(conversation, UnpinItem(item_id=ids[1]))
    await write.append(conversation, "y")
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 20)
    assert [entry.item_id for entry in snapshot.settings.pins] == [ids[0], ids[-1]]
    after = await world.reader.last_position()
    await write.retract(conversation, ids[0])
    await write.append(conversation, "z")
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 20)
    assert [entry.item_id for entry in snapshot.settings.pins] == [ids[-1]]


async def test_a_snapshot_has_the_active_summary_and_later_items(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("x" for _ in range(8)))
    await _project(world)
    seen: list[str | None] = []

    async def project() -> None:
        await _project(world, after)
        snapshot = await _equals_the_log(world, conversation, 0, 12, 1_000)
        seen.append(snapshot.settings.summary.text if snapshot.settings.summary else None)

    after = await world.reader.last_position()
    first = (await write.compact(conversation, ids[1], 3, "To 3.")).version
    await project()
    after = await world.reader.last_position()
    second = (await write.compact(conversation, ids[3], 5, "To 5.")).version
    await project()
    for undone, active in ((second, first), (first, 0)):
        after = await world.reader.last_position()
        await write.undo(conversation, undone, active)
        await project()
    after = await world.reader.last_position()
    await write.redo(conversation, first)
    await project()
    assert seen == ["To 3.", "To 5.", "To 3.", None, "To 3."]
    recent = await read_recent_items(world.redis, TENANT, conversation, 1_000)
    assert recent is not None
    assert [item.depth for item in recent.items] == [4, 5, 6, 7, 8, 9]
    assert recent.reaches_start


async def test_retracting_a_covered_item_leaves_an_earlier_summary_or_none(write: Writer, world: World) -> None:
    seen: list[str | None] = []
    for is_one_batch in (True, False):
        conversation = await write.start("one")
        ids = await write.append(conversation, *("x" for _ in range(8)))
        await write.compact(conversation, ids[1], 3, "To 3.")
        await _project(world)
        for position, index in enumerate((6, 3, 0)):  # depths 8, 5 and 2
            after = await world.reader.last_position()
            if position == 0 and is_one_batch:
                await write.compact(conversation, ids[3], 5, "To 5.")
            elif position == 0:
                await write.compact(conversation, ids[3], 5, "To 5.")
                await _project(world, after)
                after = await world.reader.last_position()
            await write.retract(conversation, ids[index])
            await _project(world, after)
            snapshot = await _equals_the_log(world, conversation, 0, 12, 1_000)
            seen.append(snapshot.settings.summary.text if snapshot.settings.summary else None)
    assert seen == ["To 5.", "To 3.", None, "To 5.", "To 3.", None]


async def test_a_summary_withdrawn_in_the_same_batch_is_not_in_the_snapshot(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, "x", "y")
    await _project(world)
    after = await world.reader.last_position()
    await write.compact(conversation, ids[0], 2, "To 2.")
    await write.retract(conversation, ids[0])
    await _project(world, after)
    assert (await _equals_the_log(world, conversation, 0, 12, 1_000)).settings.summary is None


def _sequence(depth: int, number: int = 0) -> SentSequence:
    return SentSequence(
        depth=depth, first_depth=1, settings=bytes(4), points=(SequencePoint(1, number, number.to_bytes(8)),)
    )


async def test_a_snapshot_has_the_requests_of_the_sixteen_models_used_last(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    models = ["a/b", "ü:1", *(f"model {number}" for number in range(MAX_FIELDS + 1))]
    sent: list[str] = []
    await _project(world)
    for number, model in enumerate((*models[:20], *models[:2], *models)):
        after = await world.reader.last_position()
        await write.send_sequence(conversation, model, _sequence(2, number))
        sent = [*(other for other in sent if other != model), model]
        await _project(world, after)
        if number % 6 and number < len(models) + 18:
            continue
        head = await world.reader.head(conversation)
        assert head is not None
        snapshot = await _read(world, conversation)
        assert snapshot is not None
        assert snapshot == await snapshot_from_log(world.reader, conversation, head.version)
        assert {*snapshot.last_requests} == {*sent[-MAX_LAST_REQUESTS:]}
        for max_tokens in (0, 1_000):
            recent = await read_recent_items(world.redis, TENANT, conversation, max_tokens)
            assert recent is not None
            assert recent.last_requests == {model: last.sequence for model, last in snapshot.last_requests.items()}
        assert await world.redis.hlen(_hash(conversation)) <= MAX_FIELDS + 1


async def test_a_request_that_a_summary_covers_is_not_a_last_request(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    await write.send_sequence(conversation, "old", _sequence(2))
    ids = await write.append(conversation, "three", "four")
    await write.send_sequence(conversation, "new", _sequence(4))
    await _project(world)
    snapshot = await _equals_the_log(world, conversation, 0, 5, 10, 15, 1_000)
    assert {*snapshot.last_requests} == {"old", "new"}
    after = await world.reader.last_position()
    await write.compact(conversation, ids[0], 3)
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 5, 1_000)
    assert {*snapshot.last_requests} == {"new"}


async def test_the_context_of_a_fork_with_a_summary_is_read_from_the_log(write: Writer, world: World) -> None:
    origin = await write.start("one")
    ids = await write.append(origin, "x0", "x1")
    conversation = await write.start("a", forked_from=Fork(conversation_id=origin, item_id=ids[1], version=4, depth=3))
    await _project(world)
    await write.compact(conversation, ids[0], 2, "To 2.")
    await _project(world, await world.reader.last_position() - 1)
    snapshot = await _read(world, conversation)
    assert snapshot is not None
    assert (snapshot.settings.needs_log, snapshot.settings.summary) == (True, None)
    assert await read_recent_items(world.redis, TENANT, conversation, 0) is None
    recent = await recent_items_from_log(world.reader, conversation, snapshot.version, 1_000)
    assert recent.summary is not None
    await write.retract(origin, ids[0])
    recent = await recent_items_from_log(world.reader, conversation, snapshot.version, 1_000)
    assert recent.summary is None
    await _equals_the_log(world, conversation)


async def test_retracted_pins_of_a_fork_and_pins_beside_its_path_do_not_need_the_log(
    write: Writer, world: World
) -> None:
    origin = await write.start("one", "two")
    fork = Fork(conversation_id=origin, item_id="msg_two", version=3, depth=2)
    conversation = await write.start(forked_from=fork)
    first, beside = await write.append(conversation, "a", "b")
    leaf = Leaf(first, 3, (PathBranch(0, 3, 2),))
    [on_path] = new_items(["c"])
    await write.execute(conversation, ReviseItem(item_id=beside, item=on_path, author="ann", leaf=leaf))
    for item_id in (beside, on_path.item_id):
        await write.execute(conversation, PinItem(item_id=item_id))
    await write.retract(conversation, on_path.item_id)
    await _project(world)
    snapshot = await _equals_the_log(world, conversation, 0, 4)
    assert (snapshot.settings.needs_log, snapshot.settings.pins) == (False, ())


async def test_a_pin_that_a_fork_inherits_needs_the_log_until_the_fork_retracts_the_item(
    write: Writer, world: World
) -> None:
    origin = await write.start("one")
    [item_id] = await write.append(origin, "two")
    fork = Fork(conversation_id=origin, item_id=item_id, version=3, depth=2)
    conversation = await write.start("a", "b", forked_from=fork)
    inherited = KnownItem(depth=2, inherited=True)
    await write.execute(conversation, PinItem(item_id=item_id, inherited=inherited))
    await _project(world)
    assert (await _equals_the_log(world, conversation)).settings.needs_log
    assert await read_recent_items(world.redis, TENANT, conversation, 0) is None
    after = await world.reader.last_position()
    await write.execute(conversation, RetractItem(item_id=item_id, inherited=inherited))
    await _project(world, after)
    assert not (await _equals_the_log(world, conversation, 0, 5)).settings.needs_log


async def test_the_context_of_a_fork_with_inherited_pin_and_summary_is_read_from_the_log(
    write: Writer, world: World
) -> None:
    origin = await write.start("one")
    ids = await write.append(origin, "x0", "x1", "x2")
    await write.compact(origin, ids[0], 2, "To 2.")
    fork = Fork(conversation_id=origin, item_id=ids[1], version=6, depth=3)
    summary = InheritedSummary(conversation_id=origin, version=6)
    conversation = await write.start("a", forked_from=fork, pinned=(ids[0],), summary=summary)
    [own] = await write.append(conversation, "b")
    await _project(world)
    snapshot = await _equals_the_log(world, conversation)
    assert (snapshot.settings.needs_log, snapshot.settings.pins, snapshot.settings.summary) == (True, (), None)
    assert await read_recent_items(world.redis, TENANT, conversation, 0) is None
    await write.execute(conversation, PinItem(item_id=own))
    await write.compact(conversation, own, 5, "To 5.")
    await _project(world, await world.reader.last_position() - 2)
    await _equals_the_log(world, conversation)
    recent = await recent_items_from_log(world.reader, conversation, snapshot.version, 1_000)
    assert recent.summary is not None
    assert (recent.summary.text, recent.summary.depth) == ("To 2.", 2)
    assert [item.item["content"] for item in (*recent.pins, *recent.items)] == ["x0", "x1", "a", "b"]
    assert recent.pinned == {ids[0]}


async def test_the_snapshot_of_a_fork_has_only_its_own_items(write: Writer, world: World) -> None:
    origin = await write.start("one")
    ids = await write.append(origin, *(f"x{n}" for n in range(6)))
    await write.retract(origin, ids[1])
    fork = Fork(conversation_id=origin, item_id=ids[3], version=9, depth=5)
    await write.retract(origin, ids[2])
    conversation = await write.start("a", forked_from=fork)
    await write.append(conversation, "b")
    await _project(world)
    snapshot = await _equals_the_log(world, conversation, 5)
    assert (snapshot.first, snapshot.depth, [entry.depth for entry in snapshot.items]) == (6, 7, [6, 7])
    assert not snapshot.reaches_start
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
    recent = await recent_items_from_log(world.reader, conversation, 3, 1_000)
    assert [item.item["content"] for item in recent.items] == ["one", "x0", "x3", "a", "b"]
    assert recent.reaches_start
    empty = await write.start(forked_from=fork)
    await _project(world, await world.reader.last_position() - 1)
    snapshot = await _equals_the_log(world, empty)
    assert (snapshot.first, snapshot.depth, snapshot.items) == (6, 5, ())


async def test_the_context_of_a_fork_of_a_fork_reads_through_both_origins(write: Writer, world: World) -> None:
    first = await write.start("1", "2", "3")
    second = await write.start("3b", forked_from=Fork(conversation_id=first, item_id="msg_x", version=3, depth=2))
    third = await write.start("4c", forked_from=Fork(conversation_id=second, item_id="msg_x", version=2, depth=3))
    recent = await recent_items_from_log(world.reader, third, 2, 1_000)
    assert [item.item["content"] for item in recent.items] == ["1", "2", "3b", "4c"]
    assert [item.depth for item in recent.items] == [1, 2, 3, 4]
    early = await write.start("2d", forked_from=Fork(conversation_id=third, item_id="msg_x", version=2, depth=1))
    assert [item.item["content"] for item in (await recent_items_from_log(world.reader, early, 2, 99)).items] == [
        "1",
        "2d",
    ]


async def test_at_most_the_budget_and_one_more_item_are_read(write: Writer, world: World) -> None:
    conversation = await write.start(*("x" for _ in range(50)), context_policy=ContextPolicy(budget=50))
    await _project(world)
    await _equals_the_log(world, conversation, 0, 49, 50, 51, 1_000)
    recent = await read_recent_items(world.redis, TENANT, conversation, 1_000)
    assert recent is not None
    assert sum(item.tokens for item in recent.items) == 55
    assert not recent.reaches_start


async def test_contexts_with_more_than_a_megabyte_of_pins_are_read_from_the_log(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("words " * 30_000 for _ in range(7)))
    for item_id in ids:
        await write.execute(conversation, PinItem(item_id=item_id))
    await _project(world)
    snapshot = await _equals_the_log(world, conversation)
    assert (snapshot.settings.needs_log, snapshot.settings.pins) == (True, ())
    assert await read_recent_items(world.redis, TENANT, conversation, 10) is None
    after = await world.reader.last_position()
    await write.retract(conversation, ids[0])
    await write.retract(conversation, ids[1])
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 10)
    assert (snapshot.settings.needs_log, len(snapshot.settings.pins)) == (False, 5)


async def _write_in_format_7(world: World, conversation: str) -> None:
    """Replaces a snapshot by one of format 7, which had no list."""
    key, items = snapshot_keys(TENANT, conversation)
    fields: Any = await world.redis.hgetall(key)
    elements: Any = await world.redis.lrange(items, 0, -1)
    old: dict[Any, Any] = {
        name: fields[name] for name in (b"version", b"chain_hash", b"incarnation", b"branch", b"depth", b"first")
    }
    await world.redis.delete(key, items)
    block = b"%d 10\n%b\n" % (len(elements), b"\n".join(elements))
    await world.redis.hset(key, mapping={**old, "made": "7", "policy": "{}", "count": len(elements), "i:0:0": block})


async def test_snapshots_of_an_earlier_format_are_made_again(write: Writer, world: World) -> None:
    changed, read = await write.start("one", "two"), await write.start("three")
    await _project(world)
    after = await world.reader.last_position()
    for conversation in (changed, read):
        await _write_in_format_7(world, conversation)
        assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
        assert await _read(world, conversation) is None
    await write.append(changed, "four")
    await _project(world, after)
    await _equals_the_log(world, changed, 0, 1_000)
    await refill(world.reader, world.redis, TENANT, read, 2)
    await _equals_the_log(world, read, 0, 1_000)


async def test_a_snapshot_of_a_later_format_is_made_again(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    await _project(world)
    await world.redis.hset(_hash(conversation), mapping={"format": "later", "settings": "what nobody can read yet"})
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
    await write.append(conversation, "two")
    await _project(world, 2)
    await _equals_the_log(world, conversation, 0, 1_000)


async def test_the_newest_items_that_fit_are_read_whatever_their_number(write: Writer, world: World) -> None:
    conversation = await write.start(*(f"x {n}" for n in range(600)))
    await write.append(conversation, *("words " * 200 for _ in range(40)))
    await _project(world)
    await _equals_the_log(world, conversation, 0, 15, 16, 17, 100, 5_000, 8_000, 8_300, 9_000, 11_000, 100_000)


async def test_the_elements_of_retracted_items_are_empty(write: Writer, world: World) -> None:
    conversation = await write.start("first")
    ids = await write.append(conversation, *(f"x {n}" for n in range(12)))
    await _project(world)
    for depth in (7, 8, 13, 2, 3):
        after = await world.reader.last_position()
        await write.retract(conversation, ids[depth - 2])
        await _project(world, after)
        await _equals_the_log(world, conversation, 0, 20, 50, 1_000)
    after = await world.reader.last_position()
    await write.append(conversation, "y")
    await _project(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 20, 50, 1_000)
    assert [item.depth for item in snapshot.items] == [1, 4, 5, 6, 9, 10, 11, 12, 14]
    assert await world.redis.llen(_list(conversation)) == 14


async def test_a_snapshot_that_lost_one_of_its_keys_is_made_again(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    await _project(world)
    for key, text in ((_list(conversation), "three"), (_hash(conversation), "four")):
        await world.redis.delete(key)
        assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
        after = await world.reader.last_position()
        await write.append(conversation, text)
        await _project(world, after)
        await _equals_the_log(world, conversation, 0, 1_000)


async def test_a_snapshot_with_an_unreadable_element_is_removed(write: Writer, world: World) -> None:
    conversation = await write.start("one", "two")
    await _project(world)
    await world.redis.lset(_list(conversation), 0, "{")
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
    assert not await world.redis.exists(*snapshot_keys(TENANT, conversation))
    await write.append(conversation, "three")
    await _project(world, 3)
    await _equals_the_log(world, conversation, 0, 1_000)


async def test_a_read_has_the_items_of_one_version_while_the_snapshot_changes(write: Writer, world: World) -> None:
    conversation = await write.start(*(f"x {n}" for n in range(600)))
    await _project(world)
    stopped = asyncio.Event()

    async def append() -> None:
        while not stopped.is_set():
            after = await world.reader.last_position()
            await write.append(conversation, "y")
            await _project(world, after)

    appending = asyncio.create_task(append())
    for _ in range(30):
        recent = await read_recent_items(world.redis, TENANT, conversation, 100_000)
        assert recent is not None
        assert [item.depth for item in recent.items] == list(range(1, len(recent.items) + 1))
        assert recent.version == len(recent.items) + 1
    stopped.set()
    await appending


class CountingRedis(Redis):
    """Counts the reads of snapshots."""

    reads = 0

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        self.reads += 1
        return super().pipeline(transaction, shard_hint)


async def test_a_second_lookup_of_the_same_size_takes_one_read(write: Writer, world: World) -> None:
    conversation = await write.start(*(f"x {n}" for n in range(600)))
    await _project(world)
    counting = CountingRedis(connection_pool=world.redis.connection_pool)
    find_snapshot = snapshot_lookup(counting)
    reads = []
    for max_tokens in (100_000, 100_000, 0, 100_000):
        counting.reads = 0
        recent = await find_snapshot(TENANT, conversation, max_tokens)
        assert recent == await read_recent_items(world.redis, TENANT, conversation, max_tokens)
        reads.append(counting.reads)
    assert reads == [2, 1, 1, 2]


async def test_starting_the_view_over_removes_both_keys_of_each_snapshot(write: Writer, world: World) -> None:
    await write.start("one")
    await world.catch_up()
    await world.start_over(CONTEXT, 2)
    assert await world.redis.keys("context*") == []


async def test_a_late_projector_leaves_no_old_snapshot_after_redis_lost_everything(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    batch = await world.events()
    deletion = max(recorded.position for recorded in batch if isinstance(recorded.event, ConversationDeleted))
    await world.catch_up()
    before = [replace(view_position, position=0) for view_position in await world.view_positions([CONTEXT])]
    await world.redis.flushdb()
    past = [recorded for recorded in batch if recorded.position < deletion]
    late = ContextView(world.redis, world.reader, world.database)
    with pytest.raises(PositionMoved):
        await _apply_and_flush(late, before, past)
    snapshots, by_log = await world.snapshots(), await world.snapshots_by_log()
    assert all(by_log[name] == snapshot for name, snapshot in snapshots.items())


async def _apply_and_flush(
    view: ContextView, view_positions: Sequence[ViewPosition], batch: Sequence[Recorded]
) -> None:
    await view.apply(view_positions, Batch(0, [*batch]))
    await view.flush()


async def test_the_log_is_needed_after_the_head_moves_to_a_path_whose_summary_covers_a_copy_of_a_deleted_item(
    write: Writer, world: World
) -> None:
    origin = await write.start()
    [original] = await write.append(origin, "original")
    conversation = BranchedConversation(write, await write.start())
    _, second, third = await conversation.append("one", "two", "three")
    conversation.version = (await write.compact(conversation.id, second, 2, originals=(original,))).version
    await conversation.revise(second, "another two")
    await write.retract(origin, original)
    await _project(world)
    assert not (await _equals_the_log(world, conversation.id, 1_000)).settings.needs_log
    after = await world.reader.last_position()
    await conversation.move(third)
    await _project(world, after)
    assert (await _equals_the_log(world, conversation.id)).settings.needs_log


async def test_items_that_both_paths_share_are_not_read_again_when_the_head_moves(write: Writer, world: World) -> None:
    conversation = BranchedConversation(write, await write.start())
    _, _, third, _, fifth, last = await conversation.append(*(f"number {number}" for number in range(6)))
    await _project(world)
    elements: Any = await world.redis.lrange(_list(conversation.id), 0, -1)
    first = elements[0]
    marked = first.replace(b"number", b"NUMBER")
    for step, length in (
        (lambda: conversation.revise(fifth, "another fifth"), 5),
        (lambda: conversation.move(third), 3),
        (lambda: conversation.move(last), 6),
    ):
        before = await world.reader.end()
        await world.redis.lset(_list(conversation.id), 0, marked)
        await step()
        await _project(world, before.position)
        elements = await world.redis.lrange(_list(conversation.id), 0, -1)
        assert (elements[0], len(elements)) == (marked, length)
        await world.redis.lset(_list(conversation.id), 0, first)
        await _equals_the_log(world, conversation.id, 20, 1_000)
