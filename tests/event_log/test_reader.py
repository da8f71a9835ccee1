"""Pages of one conversation are bounded in bytes and leave nothing out."""

from infrastructure.event_log.reader import EventReader
from tests.projections.conftest import write
from tests.queries.writer import Writer

__all__ = ["write"]

SIZE = 5_000
BOUND = 12_000


async def test_given_a_long_conversation_when_it_is_read_forwards_then_each_page_is_bounded_in_bytes(
    write: Writer, reader: EventReader
) -> None:
    conversation_id = await write.start(*["x" * SIZE] * 7)
    versions: list[int] = []
    sizes: list[int] = []
    while page := await reader.conversation(
        conversation_id, after=versions[-1] if versions else 0, limit=100, max_bytes=BOUND
    ):
        versions += [recorded.version for recorded in page]
        sizes.append(len(page))
    assert versions == list(range(1, 9))
    assert max(sizes) <= 3


async def test_given_a_long_conversation_when_it_is_read_backwards_then_each_page_is_bounded_in_bytes(
    write: Writer, reader: EventReader
) -> None:
    conversation_id = await write.start(*["x" * SIZE] * 7)
    versions: list[int] = []
    until = 8
    while page := await reader.conversation_backwards(conversation_id, until=until, limit=100, max_bytes=BOUND):
        assert len(page) <= 3
        versions += [recorded.version for recorded in page]
        until = page[-1].version - 1
    assert versions == list(range(8, 0, -1))


async def test_given_an_event_larger_than_a_page_then_it_is_a_page_of_its_own(
    write: Writer, reader: EventReader
) -> None:
    conversation_id = await write.start(*["x" * SIZE] * 3)
    page = await reader.conversation(conversation_id, after=1, limit=100, max_bytes=1)
    back = await reader.conversation_backwards(conversation_id, until=3, limit=100, max_bytes=1)
    assert [recorded.version for recorded in (*page, *back)] == [2, 3]
