"""What a context costs does not grow with what was done to its conversation, nor with what is done to others."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from context.assembly import MAX_LOG_READS, Contexts
from context.choice import ReplyRequest
from context.conversation_settings import instructions_and_policy
from context.history_backwards import RecentItems
from context.models import Models
from domain.commands import DescribeConversation, PinItem, UnpinItem
from domain.events import ContextPolicy
from infrastructure.event_log.reader import SETTINGS_EVENTS, EventReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from infrastructure.stores.postgres import Pool, make_pool
from tests.queries.writer import Writer

SINCE_ALWAYS = 1_000_000


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    pool = make_pool(settings.postgres_url, max_size=2)
    await pool.open()
    yield pool
    await pool.close()


async def test_given_many_changes_of_a_description_then_what_stands_is_a_few_events(write: Writer, pool: Pool) -> None:
    conversation = await write.start("one", instructions="First.", context_policy=ContextPolicy(budget=1))
    changes = (
        {"metadata": {"a": "b"}},
        {"title": "T"},
        {"instructions": "Second."},
        {"context_policy": ContextPolicy(budget=2)},
        {"instructions": "Third.", "context_policy": ContextPolicy(budget=3)},
        {"instructions": None, "title": None},
        {"context_policy": ContextPolicy(), "metadata": {}},
    )
    reader = EventReader(pool)
    versions: list[tuple[int, str | None, int | None]] = [(1, "First.", 1)]
    for _ in range(5):
        for change in changes:
            done = await write.execute(conversation, DescribeConversation(**change))
            state = done.conversation
            versions.append((state.version, state.instructions, state.context_policy.budget))
    for version, instructions, budget in versions:
        stands = await reader.settings_events(conversation, until=version)
        assert len(stands) <= 4
        assert instructions_and_policy(stands) == (instructions, ContextPolicy(budget=budget))


async def test_given_pins_everywhere_else_then_a_long_conversation_without_any_is_not_read_for_them(
    write: Writer, pool: Pool
) -> None:
    long = await write.start("one")
    for _ in range(20):
        await write.append(long, *["x"] * 50)
    pinned = await write.start()
    [item_id] = await write.append(pinned, "pin me")
    for _ in range(150):
        await write.execute(pinned, PinItem(item_id=item_id))
        await write.execute(pinned, UnpinItem(item_id=item_id))
    async with pool.connection() as connection:
        await connection.execute("ANALYZE events")
        explain = sql.SQL("EXPLAIN (ANALYZE) ") + SETTINGS_EVENTS.format(sql.SQL("*"))
        plan = await (await connection.execute(explain, {"stream": uuid_of(long), "until": SINCE_ALWAYS})).fetchall()
    text = "\n".join(str(row[0]) for row in plan)
    assert "events_item_idx" in text
    assert "Removed by Filter" not in text


class Counting(EventReader):
    """Knows how many contexts were read at once."""

    now = most = 0

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().settings_events(conversation_id, until=until)
        finally:
            self.now -= 1


async def _no_snapshot(_tenant: str, _conversation_id: str, _room: int) -> RecentItems | None:
    return None


async def test_given_many_contexts_without_a_snapshot_then_a_few_are_read_at_a_time(
    write: Writer, pool: Pool, settings: Settings
) -> None:
    conversation = await write.start(*map(str, range(50)))
    reader = Counting(pool)
    contexts = Contexts(reader, Models(settings), _no_snapshot)
    asked = ReplyRequest(model="gpt-4o", parameters={}, input_unknown=True)
    found = await asyncio.gather(*(contexts.assemble("default", conversation, 51, asked) for _ in range(40)))
    assert {len(context.sent_ids) for context in found} == {50}
    assert 1 < reader.most <= MAX_LOG_READS


class Silent(EventReader):
    """Waits for a Postgres that says nothing until `speaks`."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.speaks = asyncio.Event()

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        await self.speaks.wait()
        return await super().settings_events(conversation_id, until=until)


async def test_given_postgres_is_silent_while_a_few_are_read_then_those_behind_them_are_told(
    write: Writer, pool: Pool, settings: Settings
) -> None:
    conversation = await write.start("a", "b")
    reader = Silent(pool)
    contexts = Contexts(reader, Models(settings), _no_snapshot, log_read_wait_timeout=0.2)
    asked = ReplyRequest(model="gpt-4o", parameters={}, input_unknown=True)

    async def read() -> int:
        return len((await contexts.assemble("default", conversation, 3, asked)).sent_ids)

    few = [asyncio.create_task(read()) for _ in range(MAX_LOG_READS)]
    await asyncio.sleep(0)
    told = await asyncio.wait_for(asyncio.gather(*(read() for _ in range(10)), return_exceptions=True), 5)
    assert [type(error) for error in told] == [psycopg.OperationalError] * 10
    reader.speaks.set()
    assert await asyncio.gather(*few, read()) == [2] * (MAX_LOG_READS + 1)
