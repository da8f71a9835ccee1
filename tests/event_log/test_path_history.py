"""`PathHistory` reads the items of a path, newest first."""

from context.history_backwards import RecentItems, recent_items_from_log
from context.path_backwards import PAGE_EVENTS
from context.path_history import MAX_READ_BYTES, MAX_READ_ITEMS, PathHistory
from domain.events import Fork
from domain.paths import PathSegment, origin_of
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from tests.projections.conftest import write
from tests.queries.writer import Writer

__all__ = ["write"]


async def all_ids(history: PathHistory) -> list[str]:
    while await history.read_older():
        pass
    return [item_id for item_id, _ in history.newest_first]


async def test_a_path_is_read_without_gap_or_repeat(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *(f"message {n}" for n in range(PAGE_EVENTS)))
    retracted = [ids[3], ids[-2]]
    for item_id in retracted:
        await write.retract(conversation_id, item_id)
    origin = Fork(conversation_id=conversation_id, item_id=ids[149], version=151, depth=150)
    fork_id = await write.start(forked_from=origin, family=conversation_id)
    ids_of_fork = await write.append(fork_id, "a", "b")
    kept = [item_id for item_id in ids if item_id not in retracted]
    for end, path in (
        (PathSegment(conversation_id, 1 + len(ids) + 2), kept),
        (PathSegment(fork_id, 3), [*kept[:149], *ids_of_fork]),
        (origin_of(origin), kept[:149]),
    ):
        for max_tokens in (0, 60, 100_000):
            recent: RecentItems | None = None
            if max_tokens and end.last_depth is None:
                recent = await recent_items_from_log(reader, end.conversation_id, end.version, max_tokens)
            history = PathHistory(reader, end, recent, is_past=end.last_depth is not None)
            assert await all_ids(history) == path[::-1]
    carried = [(mint("msg"), {"type": "message", "role": "user", "content": "x", "id": "mine"})]
    history = PathHistory(reader, PathSegment(fork_id, 3), newer=carried)
    assert await history.find_given("mine") == carried[0]
    assert (await all_ids(history))[:2] == [carried[0][0], ids_of_fork[1]]
    assert await all_ids(PathHistory(reader, None)) == []


async def test_reading_ends_when_a_maximum_is_reached(write: Writer, reader: EventReader) -> None:
    many = await write.start()
    for _ in range(MAX_READ_ITEMS // 1000 + 1):
        await write.append(many, *["x"] * 1000)
    large = await write.start()
    for _ in range(20):
        await write.append(large, *["x" * 1_000_000] * 2)
    end = PathSegment(many, 1 + MAX_READ_ITEMS + 1000)
    assert len(await all_ids(PathHistory(reader, end))) == MAX_READ_ITEMS
    read = await all_ids(PathHistory(reader, PathSegment(large, 41)))
    assert MAX_READ_BYTES // 1_000_000 <= len(read) < 40
