"""GET …/context shows which items would be sent to a model, and which are left out."""

import asyncio
import time
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from context.assembly import MAX_LOG_READS, SharedContexts
from context.choice import ReplyRequest
from context.history_backwards import RecentItems
from context.models import Models
from context.tokens import count
from domain.commands import NewItem, PinItem
from domain.events import ContextPolicy
from domain.items import ROLES, without_listed_fields
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.conversation_reader import ConversationReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import VersionLookup
from infrastructure.ids import mint
from infrastructure.settings import Settings
from infrastructure.stores.postgres import Pool, make_pool
from queries.log_access import PostgresUnavailable
from queries.main import open_dependencies
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer

MODEL = "any"
WINDOW = 2_000
TEXT = "word " * 40
"""About forty tokens."""


@pytest.fixture
async def small_window_api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Fewer than 30 copies of TEXT fit into the window."""
    async with open_api(settings.model_copy(update={"default_model": MODEL, "model_window": WINDOW})) as api:
        yield api


async def context(api: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/context")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_unretracted_items_before_the_sent_items_are_shown_as_left_out(
    small_window_api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *[TEXT] * 30)
    sent = [item["id"] for item in (await context(small_window_api, conversation_id))["items"]]
    before = ids[: -len(sent)]
    await write.retract(conversation_id, before[0])
    await write.retract(conversation_id, before[-1])

    body = await context(small_window_api, conversation_id)

    assert [item["id"] for item in body["items"]] == sent
    left_out = {"from": before[1], "to": before[-2], "count": len(before) - 2, "reason": "budget"}
    assert body["left_out"] == [left_out]


async def test_the_count_of_left_out_items_may_include_deleted_ones(
    small_window_api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *[TEXT] * 500)
    await write.retract(conversation_id, ids[7])

    body = await context(small_window_api, conversation_id)

    left_out = ids[: -len(body["items"])]
    assert body["left_out"] == [{"from": None, "to": left_out[-1], "count": len(left_out), "reason": "budget"}]


async def test_a_retracted_item_is_not_shown_as_left_out(
    small_window_api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    [first] = await write.append(conversation_id, "b")
    await write.retract(conversation_id, first)

    assert (await context(small_window_api, conversation_id))["left_out"] == []


async def test_while_postgres_hangs_a_context_fails_within_10_seconds(
    settings: Settings, postgres: Proxy, write: Writer
) -> None:
    conversation_id = await write.start("a")
    reply_request = ReplyRequest(model=MODEL, parameters={})
    async with open_dependencies(settings.model_copy(update={"postgres_url": postgres.url}), Event()) as dependencies:
        own = dependencies.of(ANONYMOUS)
        head = await own.log.head(conversation_id)
        assert head is not None
        await own.contexts.assemble(conversation_id, head.stream_version, reply_request)
        postgres.freeze()
        started = time.monotonic()
        with pytest.raises(PostgresUnavailable):
            await own.contexts.assemble(conversation_id, head.stream_version, reply_request)
        assert time.monotonic() - started < 10.0
        await postgres.restore()


async def test_a_summary_replaces_the_items_that_it_covers_except_pinned_ones(
    small_window_api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    ids = await write.append(conversation_id, "b", "c", "d")
    await write.execute(conversation_id, PinItem(item_id=ids[0]))
    await write.compact(conversation_id, ids[1], 3, "They spelled.")

    body = await context(small_window_api, conversation_id)

    assert [(item["id"], item["pinned"]) for item in body["items"]] == [(ids[0], True), (ids[2], False)]
    summary = body["summary"]
    assert summary["id"].startswith("cmp_")
    assert {name: summary[name] for name in ("text", "from", "to", "count")} == {
        "text": "They spelled.",
        "from": ids[1],
        "to": ids[1],
        "count": 3,
    }
    assert body["left_out"] == [{"from": ids[1], "to": ids[1], "count": 3, "reason": "summarized"}]
    assert body["tokens"] == summary["tokens"] + sum(item["tokens"] for item in body["items"])


async def test_tokens_are_counted_with_the_models_encoding(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    text = "Ünïcödé 雪が降る — نص عربي 🙂 " * 20
    conversation_id = await write.start(*[text] * 20, context_policy=ContextPolicy(budget=3_000, window="newest"))
    async with open_api(settings.model_copy(update={"default_model": MODEL})) as api:
        for model, encoding in (("gpt-4", "cl100k_base"), ("gpt-4o", "o200k_base")):
            answer = await api.get(f"/v1/conversations/{conversation_id}/context", params={"model": model})
            body = answer.json()
            item_tokens = count(text, encoding) + 4
            assert {item["tokens"] for item in body["items"]} == {item_tokens}
            assert body["tokens"] == item_tokens * len(body["items"]) <= 3_000 < item_tokens * (len(body["items"]) + 1)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    pool = make_pool(settings.postgres_url, max_size=2)
    await pool.open()
    yield pool
    await pool.close()


async def no_snapshot(_tenant: str, _conversation_id: str, _max_tokens: int) -> RecentItems | None:
    return None


class CountingReader(ConversationReader):
    """Counts simultaneous reads."""

    running = max_running = 0

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            return await super().settings_events(conversation_id, until=until)
        finally:
            self.running -= 1


async def test_without_snapshots_only_a_few_contexts_are_read_at_a_time(
    write: Writer, pool: Pool, settings: Settings
) -> None:
    conversation_id = await write.start(*map(str, range(50)))
    reader = CountingReader(pool, VersionLookup(pool), "default")
    contexts = SharedContexts(Models(settings), no_snapshot).of(reader)
    reply_request = ReplyRequest(model="gpt-4o", parameters={}, input_unknown=True)
    head = await reader.head(conversation_id)
    assert head is not None
    assembled = await asyncio.gather(
        *(contexts.assemble(conversation_id, head.stream_version, reply_request) for _ in range(40))
    )
    assert {len(context.sent_ids) for context in assembled} == {50}
    assert 1 < reader.max_running <= MAX_LOG_READS


class HangingReader(ConversationReader):
    """A reader that hangs until `released` is set, as if Postgres were frozen."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, VersionLookup(pool), "default")
        self.started = asyncio.Semaphore(0)
        self.released = asyncio.Event()

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        self.started.release()
        await self.released.wait()
        return await super().settings_events(conversation_id, until=until)


async def test_contexts_that_wait_behind_hanging_reads_fail_after_the_timeout(
    write: Writer, pool: Pool, settings: Settings
) -> None:
    conversation_id = await write.start("a", "b")
    reader = HangingReader(pool)
    contexts = SharedContexts(Models(settings), no_snapshot, log_read_wait_timeout=0.2).of(reader)
    reply_request = ReplyRequest(model="gpt-4o", parameters={}, input_unknown=True)

    head = await reader.head(conversation_id)
    assert head is not None
    at = head.stream_version

    async def read() -> int:
        return len((await contexts.assemble(conversation_id, at, reply_request)).sent_ids)

    hanging = [asyncio.create_task(read()) for _ in range(MAX_LOG_READS)]
    for _ in hanging:
        await reader.started.acquire()
    waiting = await asyncio.wait_for(asyncio.gather(*(read() for _ in range(10)), return_exceptions=True), 5)
    assert [type(error) for error in waiting] == [psycopg.OperationalError] * 10
    reader.released.set()
    assert await asyncio.gather(*hanging, read()) == [2] * (MAX_LOG_READS + 1)


async def test_the_context_and_the_list_of_items_show_equal_messages(
    small_window_api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    text = 'He said: "{no}" \\ 雪 \n\x01'
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role in ROLES]
    messages += [{"type": "message", "role": "assistant", "content": text}]
    part, answer = {"type": "input_text", "text": text}, {"type": "output_text", "text": text, "annotations": []}
    messages += [{"type": "message", "role": "assistant", "status": "completed", "content": [answer]}]
    messages += [{"role": "user", "content": [part]}, {"type": "message", "role": "user", "content": [part]}]
    messages += [{"content": text, "role": "user"}, {"role": "user", "content": [part, part]}]
    items = [NewItem(item_id=mint("msg"), item=msgspec.json.encode(message)) for message in messages]
    conversation_id = await write.start(items=items)
    await projector.catch_up()
    listed = (await small_window_api.get(f"/v1/conversations/{conversation_id}/items?order=asc")).json()["data"]

    sent = (await context(small_window_api, conversation_id))["items"]

    assert [set(item) for item in sent] == [{"id", "tokens", "item", "pinned"}] * len(messages)
    assert [item["id"] for item in sent] == [item["id"] for item in listed]
    assert [item["item"] for item in sent] == [without_listed_fields(item) for item in listed]
