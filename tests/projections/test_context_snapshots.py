"""Context snapshots: only ever newer, made anew when they are lost, bounded, and equal to what the log says."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from context.history_backwards import recent_items_from_log
from context.snapshot_from_log import refill, snapshot_from_log
from context.snapshot_store import put_snapshot, read_recent_items, read_snapshot
from context.snapshots import (
    BLOCK_DEPTHS,
    MAX_BYTES,
    MAX_ITEMS,
    TOMBSTONE_TTL_SECONDS,
    Snapshot,
    snapshot_key,
    to_fields,
)
from domain.commands import DescribeConversation, PinItem, RedoCompaction, UndoCompaction, UnpinItem
from domain.events import ContextPolicy, ConversationDeleted, Fork
from infrastructure.event_log.recorded import Recorded
from projections.context_view import ContextView
from projections.snapshot_change import snapshot_changes
from projections.view_positions import PositionMoved
from projections.views.catalog import CONTEXT
from projections.views.view_position import ViewPosition
from tests.projections.history import write_everything
from tests.projections.world import World
from tests.queries.store import Writer

TENANT = "default"


async def _read(world: World, conversation: str) -> Snapshot | None:
    return await read_snapshot(world.redis, TENANT, conversation)


async def _carry(world: World, after: int = 0, until: int | None = None) -> None:
    batch = await world.reader.after(after, limit=100_000, until=until)
    await ContextView(world.redis, world.reader, world.database).apply_changes(snapshot_changes(batch))


async def test_given_a_conversation_when_it_is_projected_then_its_snapshot_has_what_a_reply_needs(
    write: Writer, world: World
) -> None:
    conversation = await write.start("hello", "you", instructions="Be brief.", context_policy=ContextPolicy(budget=70))
    (last,) = await write.append(conversation, "there, my friend")
    await _carry(world)
    snapshot = await _read(world, conversation)
    assert snapshot is not None
    assert (snapshot.version, snapshot.head, snapshot.depth, snapshot.branch, snapshot.first) == (4, last, 3, 0, 1)
    assert (snapshot.instructions, snapshot.policy) == ("Be brief.", ContextPolicy(budget=70))
    assert [(entry.depth, entry.tokens, msgspec.json.decode(entry.item)["content"]) for entry in snapshot.items] == [
        (1, 5, "hello"),
        (2, 5, "you"),
        (3, 8, "there, my friend"),
    ]
    assert snapshot.recent_items() == await recent_items_from_log(world.reader, conversation, 4, 1_000_000)


async def test_given_every_kind_of_event_when_a_batch_comes_again_then_nothing_changes(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    await _carry(world)
    held = await world.snapshots()
    await _carry(world)
    assert await world.snapshots() == held == await world.snapshots_by_log()


async def test_given_every_kind_of_event_when_they_come_in_small_batches_then_the_snapshots_are_the_same(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    for recorded in await world.events():
        await _carry(world, recorded.position - 1, recorded.position)
    assert await world.snapshots() == await world.snapshots_by_log()


async def test_given_a_snapshot_when_an_older_one_is_put_then_it_stays(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    old = await snapshot_from_log(world.reader, conversation, 1)
    await _carry(world)
    held = await _read(world, conversation)
    assert not await put_snapshot(world.redis, TENANT, conversation, old)
    assert held is not None
    assert not await put_snapshot(world.redis, TENANT, conversation, held)
    assert await _read(world, conversation) == held


async def test_given_a_deleted_conversation_then_a_tombstone_refuses_what_comes_late_and_goes_in_a_day(
    write: Writer, world: World
) -> None:
    conversation = await write.start("secret")
    await _carry(world)
    late = await snapshot_from_log(world.reader, conversation, 2)
    await write.delete(conversation)
    await _carry(world, 2)
    assert await _read(world, conversation) == Snapshot(version=3, deleted=True)
    assert not await put_snapshot(world.redis, TENANT, conversation, late)
    await _carry(world, 0, 2)
    assert await _read(world, conversation) == Snapshot(version=3, deleted=True)
    assert 0 < await world.redis.ttl(snapshot_key(TENANT, conversation)) <= TOMBSTONE_TTL_SECONDS
    assert await world.redis.hlen(snapshot_key(TENANT, conversation)) == 2


async def test_given_redis_lost_everything_when_a_conversation_is_touched_then_its_snapshot_is_whole_again(
    write: Writer, live: World
) -> None:
    touched = await write.start("one", "two", instructions="Be brief.")
    silent = await write.start("three")
    await live.until(live.shown)
    await live.redis.flushdb()
    await write.append(touched, "four")
    await live.until(live.shown)
    snapshot = await _read(live, touched)
    assert snapshot == await snapshot_from_log(live.reader, touched, 4)
    assert await _read(live, silent) is None
    assert await refill(live.reader, live.redis, TENANT, silent, 2) == await _read(live, silent)


async def test_given_a_snapshot_with_a_gap_when_a_change_comes_then_it_is_made_anew(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    await _carry(world)
    await write.append(conversation, "missed")
    await write.append(conversation, "seen")
    await _carry(world, 3)
    assert await _read(world, conversation) == await snapshot_from_log(world.reader, conversation, 4)


async def test_given_a_snapshot_from_the_middle_of_a_batch_when_the_batch_comes_then_it_ends_right(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two", "three")
    await refill(world.reader, world.redis, TENANT, conversation, 2)
    await _carry(world)
    assert await _read(world, conversation) == await snapshot_from_log(world.reader, conversation, 4)


async def test_given_a_long_conversation_then_the_newest_items_are_kept_and_first_says_from_where(
    write: Writer, world: World
) -> None:
    conversation = await write.start(*("x" for _ in range(300)))
    await _carry(world)
    after = await world.reader.last_position()
    await write.append(conversation, *("y" for _ in range(300)))
    await _carry(world, after)
    snapshot = await _read(world, conversation)
    assert snapshot == await snapshot_from_log(world.reader, conversation, 601)
    assert snapshot is not None
    assert (len(snapshot.items), snapshot.first, snapshot.depth) == (MAX_ITEMS, 89, 600)
    assert not snapshot.recent_items().reaches_start


async def test_given_large_items_then_no_more_than_a_megabyte_is_kept(write: Writer, world: World) -> None:
    conversation = await write.start(*("words " * 30_000 for _ in range(7)))
    await _carry(world)
    snapshot = await _read(world, conversation)
    assert snapshot == await snapshot_from_log(world.reader, conversation, 8)
    assert snapshot is not None
    assert (len(snapshot.items), snapshot.first) == (5, 3)
    held: Any = await world.redis.hgetall(snapshot_key(TENANT, conversation))
    lines = [line for name, block in held.items() if name.startswith(b"i:") for line in block.splitlines()[1:]]
    assert int(held[b"bytes"]) == sum(map(len, lines)) <= MAX_BYTES
    assert int(held[b"count"]) == len(lines) == 5


async def test_given_an_item_larger_than_a_snapshot_then_the_snapshot_has_no_items(write: Writer, world: World) -> None:
    conversation = await write.start("small")
    await _carry(world)
    await write.append(conversation, "words " * 200_000)
    await _carry(world, 2)
    snapshot = await _read(world, conversation)
    assert snapshot == await snapshot_from_log(world.reader, conversation, 3)
    assert snapshot is not None
    assert (snapshot.items, snapshot.first, snapshot.depth) == ((), 3, 2)


@pytest.mark.parametrize("instructions", [None, "New."])
async def test_given_instructions_when_they_change_then_the_snapshot_has_the_new_ones(
    instructions: str | None, write: Writer, world: World
) -> None:
    conversation = await write.start("one", instructions="Old.")
    await _carry(world)
    await write.do(conversation, DescribeConversation(instructions=instructions))
    await _carry(world, 2)
    snapshot = await _read(world, conversation)
    assert snapshot is not None
    assert snapshot.instructions == instructions
    assert snapshot == await snapshot_from_log(world.reader, conversation, 3)


async def _equals_the_log(world: World, conversation: str, *rooms: int) -> Snapshot:
    """Carries forward what is in the log, event by event at last; the snapshot is what the log says, and so is every end of it."""
    head = await world.reader.head(conversation)
    snapshot = await _read(world, conversation)
    assert head is not None
    assert snapshot == await snapshot_from_log(world.reader, conversation, head.version)
    for room in rooms:
        held = await read_recent_items(world.redis, TENANT, conversation, room)
        assert held == await recent_items_from_log(world.reader, conversation, head.version, room)
    return snapshot


async def test_given_pinned_items_then_the_snapshot_has_them_wherever_they_are(write: Writer, world: World) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("x" for _ in range(MAX_ITEMS + 10)))
    for item_id in (ids[-1], ids[0], ids[1]):
        await write.do(conversation, PinItem(item_id=item_id))
    await _carry(world)
    snapshot = await _equals_the_log(world, conversation, 0, 20, 1_000)
    assert [entry.item_id for entry in snapshot.pins] == [ids[0], ids[1], ids[-1]]
    after = await world.reader.last_position()
    await write.do(conversation, UnpinItem(item_id=ids[1]))
    await write.append(conversation, "y")
    await _carry(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 20)
    assert [entry.item_id for entry in snapshot.pins] == [ids[0], ids[-1]]
    after = await world.reader.last_position()
    await write.retract(conversation, ids[0])
    await write.append(conversation, "z")
    await _carry(world, after)
    snapshot = await _equals_the_log(world, conversation, 0, 20)
    assert [entry.item_id for entry in snapshot.pins] == [ids[-1]]


async def test_given_a_summary_then_the_snapshot_has_the_one_that_stands_and_no_more_is_read_than_follows_it(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("x" for _ in range(8)))
    await _carry(world)
    seen: list[str | None] = []
    for depth, act in ((3, None), (5, None), (0, UndoCompaction()), (0, UndoCompaction()), (0, RedoCompaction())):
        after = await world.reader.last_position()
        if act is None:
            await write.compact(conversation, ids[depth - 2], depth, f"To {depth}.")
        else:
            await write.do(conversation, act)
        await _carry(world, after)
        snapshot = await _equals_the_log(world, conversation, 0, 12, 1_000)
        seen.append(snapshot.summary.text if snapshot.summary else None)
    assert seen == ["To 3.", "To 5.", "To 3.", None, "To 3."]
    recent = await read_recent_items(world.redis, TENANT, conversation, 1_000)
    assert recent is not None
    assert [each.depth for each in recent.items] == [4, 5, 6, 7, 8, 9]
    assert recent.reaches_start


async def test_given_a_fork_then_its_snapshot_begins_where_it_left_and_a_context_reads_on_in_the_origin(
    write: Writer, world: World
) -> None:
    origin = await write.start("one")
    ids = await write.append(origin, *(f"x{n}" for n in range(6)))
    await write.retract(origin, ids[1])
    fork = Fork(conversation_id=origin, item_id=ids[3], version=9, depth=5)
    await write.retract(origin, ids[2])
    conversation = await write.start("a", forked_from=fork)
    await write.append(conversation, "b")
    await _carry(world)
    snapshot = await _equals_the_log(world, conversation, 5)
    assert (snapshot.first, snapshot.depth, [entry.depth for entry in snapshot.items]) == (6, 7, [6, 7])
    assert not snapshot.recent_items().reaches_start
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
    recent = await recent_items_from_log(world.reader, conversation, 3, 1_000)
    assert [each.item["content"] for each in recent.items] == ["one", "x0", "x2", "x3", "a", "b"]
    assert recent.reaches_start
    empty = await write.start(forked_from=fork)
    await _carry(world, await world.reader.last_position() - 1)
    snapshot = await _equals_the_log(world, empty)
    assert (snapshot.first, snapshot.depth, snapshot.head, snapshot.items) == (6, 5, ids[3], ())


async def test_given_a_fork_of_a_fork_then_its_context_reads_through_both_origins(write: Writer, world: World) -> None:
    first = await write.start("1", "2", "3")
    second = await write.start("3b", forked_from=Fork(conversation_id=first, item_id="msg_x", version=3, depth=2))
    third = await write.start("4c", forked_from=Fork(conversation_id=second, item_id="msg_x", version=2, depth=3))
    recent = await recent_items_from_log(world.reader, third, 2, 1_000)
    assert [each.item["content"] for each in recent.items] == ["1", "2", "3b", "4c"]
    assert [each.depth for each in recent.items] == [1, 2, 3, 4]
    early = await write.start("2d", forked_from=Fork(conversation_id=third, item_id="msg_x", version=2, depth=1))
    assert [each.item["content"] for each in (await recent_items_from_log(world.reader, early, 2, 99)).items] == [
        "1",
        "2d",
    ]


async def test_given_a_policy_then_no_more_is_read_than_its_budget_and_one_item(write: Writer, world: World) -> None:
    conversation = await write.start(*("x" for _ in range(50)), context_policy=ContextPolicy(budget=50))
    await _carry(world)
    await _equals_the_log(world, conversation, 0, 49, 50, 51, 1_000)
    recent = await read_recent_items(world.redis, TENANT, conversation, 1_000)
    assert recent is not None
    assert sum(each.tokens for each in recent.items) == 55
    assert not recent.reaches_start


async def test_given_pinned_items_of_more_than_a_megabyte_then_the_log_has_to_say_what_a_context_is(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    ids = await write.append(conversation, *("words " * 30_000 for _ in range(7)))
    for item_id in ids:
        await write.do(conversation, PinItem(item_id=item_id))
    await _carry(world)
    snapshot = await _equals_the_log(world, conversation)
    assert (snapshot.pins_too_large, snapshot.pins) == (True, ())
    assert await read_recent_items(world.redis, TENANT, conversation, 10) is None
    after = await world.reader.last_position()
    await write.retract(conversation, ids[0])
    await write.retract(conversation, ids[1])
    await _carry(world, after)
    snapshot = await _equals_the_log(world, conversation, 10)
    assert (snapshot.pins_too_large, len(snapshot.pins)) == (False, 5)


async def test_given_a_snapshot_that_other_code_made_then_it_is_not_read_and_the_next_event_makes_it_anew(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    await _carry(world)
    await world.redis.hdel(snapshot_key(TENANT, conversation), "made")
    assert await read_recent_items(world.redis, TENANT, conversation, 10) is None
    assert await _read(world, conversation) is None
    await write.append(conversation, "two")
    await _carry(world, 2)
    await _equals_the_log(world, conversation, 10)


async def _as_made_before(world: World, conversation: str) -> None:
    """Puts there what the code before this one did: a field for each item, and how it was made."""
    name = snapshot_key(TENANT, conversation)
    held: Any = await world.redis.hgetall(name)
    lines = [line for field, block in held.items() if field.startswith(b"i:") for line in block.splitlines()[1:]]
    await world.redis.hdel(name, *(field for field in held if field.startswith(b"i:")))
    for line in lines:
        entry = msgspec.json.decode(line)
        old = {"tokens": entry["tokens"], "id": entry["item_id"], "parent": None, "item": entry["item"]}
        await world.redis.hset(name, f"i:0:{entry['depth']}", msgspec.json.encode(old))
    await world.redis.hset(name, "made", "4")


async def test_given_snapshots_of_the_format_before_then_none_is_read_and_each_is_made_anew(
    write: Writer, world: World
) -> None:
    touched, read = await write.start("one", "two"), await write.start("three")
    await _carry(world)
    after = await world.reader.last_position()
    for conversation in (touched, read):
        await _as_made_before(world, conversation)
        assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
        assert await _read(world, conversation) is None
    await write.append(touched, "four")
    await _carry(world, after)
    await _equals_the_log(world, touched, 0, 1_000)
    await refill(world.reader, world.redis, TENANT, read, 2)
    await _equals_the_log(world, read, 0, 1_000)
    # And nothing is left of the old one.
    assert b"i:0:1" not in await world.redis.hkeys(snapshot_key(TENANT, touched))


async def test_given_a_snapshot_of_a_format_to_come_when_an_event_comes_then_this_code_makes_it_anew(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one")
    await _carry(world)
    await world.redis.hset(
        snapshot_key(TENANT, conversation), mapping={"made": "6", "i:0:0": "what nobody can read yet"}
    )
    assert await read_recent_items(world.redis, TENANT, conversation, 1_000) is None
    await write.append(conversation, "two")
    await _carry(world, 2)
    await _equals_the_log(world, conversation, 0, 1_000)


async def test_given_items_of_several_blocks_then_each_says_what_it_has_whoever_wrote_it_and_every_end_is_right(
    write: Writer, world: World
) -> None:
    conversation = await write.start(*(f"x {n}" for n in range(BLOCK_DEPTHS * 2 + 3)))
    await _carry(world)
    for item in ("y", "zz zz"):
        after = await world.reader.last_position()
        await write.append(conversation, item)
        await _carry(world, after)
    snapshot = await _equals_the_log(world, conversation, *range(0, 300, 7))
    held: Any = await world.redis.hgetall(snapshot_key(TENANT, conversation))
    assert sorted(name for name in held if name.startswith(b"i:")) == [b"i:0:0", b"i:0:1", b"i:0:2"]
    written = {name.encode(): str(value).encode() for name, value in to_fields(snapshot).items()}
    assert held == written


async def test_given_retracted_items_in_the_middle_and_at_the_ends_of_blocks_then_their_lines_are_gone_and_no_others(
    write: Writer, world: World
) -> None:
    conversation = await write.start("first")
    ids = await write.append(conversation, *(f"x {n}" for n in range(BLOCK_DEPTHS * 3)))
    await _carry(world)
    for depth in (
        BLOCK_DEPTHS,
        BLOCK_DEPTHS + 1,
        2 * BLOCK_DEPTHS - 1,
        2 * BLOCK_DEPTHS,
        3 * BLOCK_DEPTHS + 1,
        *range(2, 9),
    ):
        after = await world.reader.last_position()
        await write.retract(conversation, ids[depth - 2])
        await _carry(world, after)
        snapshot = await _equals_the_log(world, conversation, 0, 50, 1_000)
        held: Any = await world.redis.hgetall(snapshot_key(TENANT, conversation))
        assert held == {name.encode(): str(value).encode() for name, value in to_fields(snapshot).items()}


async def test_given_a_block_that_nobody_can_read_when_an_event_comes_then_the_snapshot_is_made_anew(
    write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two")
    await _carry(world)
    await world.redis.hset(snapshot_key(TENANT, conversation), "i:0:0", "{")
    await write.append(conversation, "three")
    await _carry(world, 3)
    await _equals_the_log(world, conversation, 0, 1_000)


async def test_given_redis_lost_everything_when_a_late_projector_writes_what_is_past_then_no_old_snapshot_is_left(
    write: Writer, world: World
) -> None:
    await write_everything(write)
    batch = await world.events()
    deletion = max(it.position for it in batch if isinstance(it.event, ConversationDeleted))
    await world.catch_up()
    before = [replace(place, position=0) for place in await world.all_places([CONTEXT])]
    await world.redis.flushdb()
    past = [it for it in batch if it.position < deletion]
    late = ContextView(world.redis, world.reader, world.database)
    with pytest.raises(PositionMoved):
        await _apply_and_settle(late, before, past)
    held, by_log = await world.snapshots(), await world.snapshots_by_log()
    assert all(by_log[name] == snapshot for name, snapshot in held.items())


async def _apply_and_settle(view: ContextView, places: Sequence[ViewPosition], batch: Sequence[Recorded]) -> None:
    await view.apply(places, batch[-1].position, batch)
    await view.settle()
