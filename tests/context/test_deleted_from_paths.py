"""A deleted item is on no path of its conversation, nor of a fork made before or after the deletion."""

import pytest
from msgspec import Struct

from context.deleted_content import deleted_items
from context.history_backwards import RecentItems, recent_items_from_log, recent_items_of_fork
from context.history_forwards import path
from context.item_counts import ItemCounts
from context.path_history import PathHistory
from domain.commands import AppendItems, DescribeConversation, NewItem, RetractItem, StartConversation
from domain.conversation import KnownItem
from domain.errors import ItemNotFound
from domain.events import Fork, LeftOut
from domain.paths import PathSegment
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from tests.event_log.conftest import reader
from tests.projections.conftest import write
from tests.queries.writer import Writer, body

__all__ = ["reader", "write"]

ROOM = 100_000


class Family(Struct, frozen=True):
    """A conversation of four items, a fork after the third item, and a fork of this fork."""

    root: str
    items: list[str]
    fork: str
    fork_items: list[str]
    fork_of_fork: str
    last: list[str]

    @property
    def path(self) -> list[str]:
        return [*self.items[:3], *self.fork_items[:2], *self.last]


async def start_family(write: Writer) -> Family:
    root = await write.start()
    items = await write.append(root, "one", "two", "three", "four")
    fork = await write.start(forked_from=Fork(conversation_id=root, item_id=items[2], version=4, depth=3), family=root)
    fork_items = await write.append(fork, "a", "b", "c")
    origin = Fork(conversation_id=fork, item_id=fork_items[1], version=3, depth=5)
    fork_of_fork = await write.start(forked_from=origin, family=root)
    last = await write.append(fork_of_fork, "x", "y")
    return Family(root, items, fork, fork_items, fork_of_fork, last)


async def recent(reader: EventReader, conversation_id: str) -> RecentItems:
    head = await reader.head(conversation_id)
    assert head is not None
    return await recent_items_from_log(reader, conversation_id, head.version, ROOM)


async def shown(reader: EventReader, conversation_id: str) -> list[str]:
    """The ids on the path, read in three ways."""
    head = await reader.head(conversation_id)
    assert head is not None
    backwards = [item.item_id for item in (await recent(reader, conversation_id)).items]
    assert backwards == [event.item_id async for event in path(reader, PathSegment(conversation_id, head.version))]
    history = PathHistory(reader, PathSegment(conversation_id, head.version))
    while await history.read_older():
        pass
    assert backwards == [item_id for item_id, _ in reversed(history.newest_first)]
    return backwards


async def test_a_retracted_item_is_deleted_in_existing_forks(write: Writer, reader: EventReader) -> None:
    family = await start_family(write)
    assert await shown(reader, family.fork_of_fork) == family.path
    for conversation_id, item_id in (
        (family.root, family.items[1]),
        (family.fork, family.fork_items[1]),
        (family.fork_of_fork, family.last[0]),
    ):
        await write.retract(conversation_id, item_id)
    deleted = {family.items[1], family.fork_items[1], family.last[0]}
    kept = [item_id for item_id in family.path if item_id not in deleted]
    assert await shown(reader, family.fork_of_fork) == kept
    assert await shown(reader, family.fork) == [*kept[:3], family.fork_items[2]]
    assert await shown(reader, family.root) == [*kept[:2], family.items[3]]
    assert (await recent(reader, family.fork_of_fork)).lost == ()
    # With `recorded_at`, items that were deleted later are also read.
    recorded = [event.item_id async for event in path(reader, PathSegment(family.fork_of_fork, 3), recorded_at=0)]
    assert recorded == [*family.path[:5], *family.last]


async def test_an_item_that_a_fork_retracts_stays_in_the_origin(write: Writer, reader: EventReader) -> None:
    family = await start_family(write)

    async def retract_inherited(conversation_id: str, item_id: str, depth: int) -> None:
        inherited = KnownItem(depth=depth, inherited=True)
        await write.execute(conversation_id, RetractItem(item_id=item_id, inherited=inherited))

    before = await write.start(
        forked_from=Fork(conversation_id=family.fork, item_id=family.fork_items[2], version=4, depth=6)
    )
    await retract_inherited(family.fork, family.items[1], 2)
    await retract_inherited(family.fork_of_fork, family.fork_items[0], 4)
    with pytest.raises(ItemNotFound):
        await retract_inherited(family.fork, family.items[1], 2)
    hidden = {family.items[1], family.fork_items[0]}
    kept = [item_id for item_id in family.path if item_id not in hidden]
    assert await shown(reader, family.fork_of_fork) == kept
    assert await shown(reader, family.fork) == [*kept[:2], *family.fork_items]
    assert await shown(reader, before) == [*kept[:2], *family.fork_items]
    assert await shown(reader, family.root) == family.items
    assert (await write.execute(family.fork, DescribeConversation())).conversation.items == 3
    recorded = [event.item_id async for event in path(reader, PathSegment(family.fork_of_fork, 3), recorded_at=0)]
    assert recorded == family.path
    recorded = [event.item_id async for event in path(reader, PathSegment(family.fork_of_fork, 4), recorded_at=0)]
    assert recorded == [item_id for item_id in family.path if item_id != family.fork_items[0]]
    # A copy in the fork is deleted with its original.
    for conversation_id, stays in ((family.fork, False), (family.root, True)):
        copied = NewItem(item_id=mint("msg"), item=body("two"), copy_of=family.items[1])
        await write.execute(conversation_id, AppendItems(items=(copied,), author="someone"))
        assert (copied.item_id in await shown(reader, conversation_id)) is stays


async def test_a_retracted_item_is_deleted_in_a_later_fork(write: Writer, reader: EventReader) -> None:
    root = await write.start()
    items = await write.append(root, "one", "two", "three", "four")
    await write.retract(root, items[1])
    fork = Fork(conversation_id=root, item_id=items[2], version=4, depth=3)
    command = StartConversation(conversation_id=mint("conv"), tenant="default", owner="someone", forked_from=fork)
    about_to_begin = await recent_items_of_fork(reader, command, ROOM, ItemCounts())
    assert [item.item_id for item in about_to_begin.items] == [items[0], items[2]]
    assert [item.before_gap for item in about_to_begin.items] == [True, False]
    started = await write.start(forked_from=fork, family=root)
    assert await shown(reader, started) == [items[0], items[2]]


async def test_the_items_of_a_deleted_conversation_are_deleted_in_its_forks(write: Writer, reader: EventReader) -> None:
    family = await start_family(write)
    await write.delete(family.fork)
    assert await shown(reader, family.fork_of_fork) == [*family.items[:3], *family.last]
    lost_fork = LeftOut(reason="deleted", last=family.fork_items[1], count=2)
    assert (await recent(reader, family.fork_of_fork)).lost == (lost_fork,)
    await write.delete(family.root)
    assert await shown(reader, family.fork_of_fork) == family.last
    lost_root = LeftOut(reason="deleted", last=family.items[2], count=3)
    after = await recent(reader, family.fork_of_fork)
    assert (after.lost, after.reaches_start, after.is_inherited) == ((lost_root, lost_fork), True, True)
    more = await write.append(family.fork_of_fork, "z")
    assert await shown(reader, family.fork_of_fork) == [*family.last, *more]


async def test_no_inherited_item_is_read_if_the_forks_own_items_fill_the_budget(
    write: Writer, reader: EventReader
) -> None:
    family = await start_family(write)
    await write.delete(family.fork)
    few = await recent_items_from_log(reader, family.fork_of_fork, 3, 1)
    assert ([item.item_id for item in few.items], few.lost, few.is_inherited) == ([family.last[1]], (), False)


@pytest.mark.parametrize("deletion", ["the item", "its conversation"])
async def test_a_copy_is_deleted_with_its_original(write: Writer, reader: EventReader, deletion: str) -> None:
    original = await write.start()
    [item_id, other] = await write.append(original, "secret", "other")
    conversation_id = await write.start("before")
    copies = [
        NewItem(item_id=mint("msg"), item=body(text), copy_of=copied)
        for text, copied in (("secret", item_id), ("other", other))
    ]
    await write.execute(conversation_id, AppendItems(items=tuple(copies), author="someone"))
    fork = Fork(conversation_id=conversation_id, item_id=copies[1].item_id, version=4, depth=3)
    forked = await write.start("after", forked_from=fork, family=conversation_id)
    assert len(await shown(reader, conversation_id)) == 3
    await (write.retract(original, item_id) if deletion == "the item" else write.delete(original))
    kept = [copies[1].item_id] if deletion == "the item" else []
    for reads in (conversation_id, forked):
        ids = await shown(reader, reads)
        assert [new.item_id for new in copies if new.item_id in ids] == kept


async def test_only_deletions_in_the_readers_tenant_are_found(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start()
    [item_id, kept] = await write.append(conversation_id, "a", "b")
    response_id, _ = await write.request_reply(conversation_id, "?")
    await write.retract(conversation_id, item_id)
    in_question = {item_id: None, kept: None, response_id: None, mint("msg"): item_id, mint("msg"): kept, "pins": None}
    copies = [name for name, original in in_question.items() if original is not None]
    assert await deleted_items(reader, in_question) == {item_id, copies[0]}
    assert await deleted_items(reader.of_tenant("other"), in_question) == frozenset()
    assert await deleted_items(reader, {}) == frozenset()
    await write.delete(conversation_id)
    assert await deleted_items(reader, in_question) == {item_id, kept, response_id, *copies}
