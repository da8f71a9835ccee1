"""The EventReader: pages are bounded in bytes, and an index finds settings and items."""

import re

import psycopg
from msgspec.structs import replace
from psycopg import sql

from context.conversation_settings import instructions_and_policy
from domain.commands import DescribeConversation, PinItem, UnpinItem
from domain.events import ContextPolicy
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.conversation_reader import BACKWARDS, FORWARDS, MAX_PAGE_BYTES, SETTINGS_EVENTS
from infrastructure.event_log.log_rows import COLUMNS_SQL, PAGE_COLUMNS_SQL
from infrastructure.event_log.reader import ITEMS_OF_TENANT, EventReader
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.projections.conftest import write
from tests.queries.writer import Writer

__all__ = ["write"]

SIZE = 5_000
BOUND = 12_000


async def test_the_end_of_a_tenant_is_the_tenants_newest_event(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    await write.start("a")
    end = await reader.end()
    await write.for_tenant("other").start("b", "c")
    assert (await reader.end_of_tenant("default")).position == end.position
    assert (await reader.end_of_tenant("other")).position == (await reader.end()).position > end.position
    assert (await reader.end_of_tenant("nobody")).position == 0
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("DELETE FROM events WHERE notification_id > %s", [end.position])
    assert (await reader.end_of_tenant("other")).position == end.position


async def test_pages_that_are_read_forwards_are_bounded_in_bytes(write: Writer, reader: EventReader) -> None:
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


async def test_pages_that_are_read_backwards_are_bounded_in_bytes(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start(*["x" * SIZE] * 7)
    versions: list[int] = []
    until = 8
    while page := await reader.conversation_backwards(conversation_id, until=until, limit=100, max_bytes=BOUND):
        assert len(page) <= 3
        versions += [recorded.version for recorded in page]
        until = page[-1].version - 1
    assert versions == list(range(8, 0, -1))


async def test_postgres_reads_only_the_events_of_the_page(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    conversation_id = await write.start(*["x"] * 800)
    up_to, after = (uuid_of(conversation_id), 801), (uuid_of(conversation_id), 300)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        # Without statistics, Postgres expects a short conversation.
        for page_sql, parameters in (
            (BACKWARDS, (*up_to, *up_to, 20, "default", 20, MAX_PAGE_BYTES)),
            (FORWARDS, (*after, *after, 20, None, "default", 20, MAX_PAGE_BYTES)),
        ):
            statement = page_sql.format(columns=COLUMNS_SQL, page_columns=PAGE_COLUMNS_SQL)
            plan = await (await connection.execute(sql.SQL("EXPLAIN (ANALYZE) ") + statement, parameters)).fetchall()
            rows = [int(count) for row in plan for count in re.findall(r"actual time=\S+ rows=(\d+)", str(row[0]))]
            assert 0 < max(rows) <= 21
    page = await reader.conversation(conversation_id, after=300, limit=20)
    assert [recorded.version for recorded in page] == list(range(301, 321))
    for until in (801, 5_000):
        page = await reader.conversation_backwards(conversation_id, until=until, limit=20)
        assert [recorded.version for recorded in page] == list(range(801, 781, -1))


async def test_an_event_larger_than_a_page_is_a_page_of_its_own(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start(*["x" * SIZE] * 3)
    page = await reader.conversation(conversation_id, after=1, limit=100, max_bytes=1)
    back = await reader.conversation_backwards(conversation_id, until=3, limit=100, max_bytes=1)
    assert [recorded.version for recorded in (*page, *back)] == [2, 3]


async def test_reading_settings_reads_at_most_four_events(write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start("one", instructions="First.", context_policy=ContextPolicy(budget=1))
    changes = (
        {"metadata": {"a": "b"}},
        {"title": "T"},
        {"instructions": "Second."},
        {"context_policy": ContextPolicy(budget=2)},
        {"instructions": "Third.", "context_policy": ContextPolicy(budget=3)},
        {"instructions": None, "title": None},
        {"context_policy": ContextPolicy(), "metadata": {}},
    )
    expected: list[tuple[int, str | None, int | None]] = [(1, "First.", 1)]
    for _ in range(5):
        for change in changes:
            appended = await write.execute(conversation_id, DescribeConversation(**change))
            state = appended.conversation
            expected.append((state.version, state.instructions, state.context_policy.budget))
    for version, instructions, budget in expected:
        events = await reader.settings_events(conversation_id, until=version)
        assert len(events) <= 4
        assert instructions_and_policy(events) == (instructions, ContextPolicy(budget=budget))


async def test_reading_settings_reads_only_index_entries_of_the_conversation(write: Writer, settings: Settings) -> None:
    without_pins = await write.start("one")
    for _ in range(20):
        await write.append(without_pins, *["x"] * 50)
    with_pins = await write.start()
    [item_id] = await write.append(with_pins, "pin me")
    for _ in range(150):
        await write.execute(with_pins, PinItem(item_id=item_id))
        await write.execute(with_pins, UnpinItem(item_id=item_id))
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("ANALYZE events")
        explain = sql.SQL("EXPLAIN (ANALYZE) ") + SETTINGS_EVENTS.format(sql.SQL("*"))
        parameters = {"stream": uuid_of(without_pins), "until": 1_000_000, "tenant": "default"}
        plan = await (await connection.execute(explain, parameters)).fetchall()
    text = "\n".join(str(row[0]) for row in plan)
    assert "events_item_idx" in text
    assert "Removed by Filter" not in text


async def test_looking_up_items_by_id_reads_only_their_index_entries(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    found = [await write.append(await write.start(), *["x"] * 50) for _ in range(20)]
    wanted = [item_ids[7] for item_ids in found]
    own = reader.of(ANONYMOUS)
    rows = await own.items_of_tenant(wanted, MAX_PAGE_BYTES)
    assert rows is not None
    assert sorted(recorded.event.row_key or "" for recorded in rows) == sorted(wanted)
    assert await reader.of(replace(ANONYMOUS, tenant="other")).items_of_tenant(wanted, MAX_PAGE_BYTES) == []
    assert await own.items_of_tenant(wanted, 100) is None
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute("ANALYZE events")
        explain = sql.SQL("EXPLAIN (ANALYZE) ") + ITEMS_OF_TENANT.format(
            columns=COLUMNS_SQL, page_columns=PAGE_COLUMNS_SQL
        )
        plan = await (await connection.execute(explain, ("default", wanted, MAX_PAGE_BYTES))).fetchall()
    text = "\n".join(str(row[0]) for row in plan)
    assert "events_item_idx" in text
    assert "Rows Removed by Filter" not in text
