"""What a model would be sent: what was left out is told as far as it is known, and a Postgres that hangs is not waited for."""

import time
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import httpx
import pytest

from context.choice import ReplyRequest
from context.tokens import count
from domain.commands import PinItem
from domain.events import ContextPolicy
from infrastructure.settings import Settings
from queries.log_access import PostgresUnavailable
from queries.main import open_dependencies
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer

MODEL = "any"
WINDOW = 2_000
TEXT = "word " * 40
"""Some forty tokens."""


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The query API with a model that is shown some twenty of these texts, and must be reply_request for in pages of the log."""
    async with open_api(settings.model_copy(update={"default_model": MODEL, "model_window": WINDOW})) as api:
        yield api


async def context(api: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/context")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_left_out_are_the_items_that_stand_before_those_shown(
    small: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *[TEXT] * 30)
    shown = [item["id"] for item in (await context(small, conversation_id))["items"]]
    before = ids[: -len(shown)]
    await write.retract(conversation_id, before[0])
    await write.retract(conversation_id, before[-1])

    body = await context(small, conversation_id)

    assert [item["id"] for item in body["items"]] == shown
    told = {"from": before[1], "to": before[-2], "count": len(before) - 2, "reason": "budget"}
    assert body["left_out"] == [told]


async def test_what_was_not_read_back_to_the_first_item_is_not_counted(
    small: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *[TEXT] * 500)

    body = await context(small, conversation_id)

    newest_left_out = ids[-len(body["items"]) - 1]
    assert body["left_out"] == [{"from": None, "to": newest_left_out, "count": None, "reason": "budget"}]


async def test_nothing_is_left_out_where_all_is_shown(
    small: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    [first] = await write.append(conversation_id, "b")
    await write.retract(conversation_id, first)

    assert (await context(small, conversation_id))["left_out"] == []


async def test_a_postgres_that_hangs_while_a_context_is_read_is_not_waited_for(
    settings: Settings, postgres: Proxy, write: Writer
) -> None:
    conversation_id = await write.start("a")
    reply_request = ReplyRequest(model=MODEL, parameters={})
    async with open_dependencies(settings.model_copy(update={"postgres_url": postgres.url}), Event()) as dependencies:
        await dependencies.contexts.assemble("default", conversation_id, 2, reply_request)
        postgres.freeze()
        started = time.monotonic()
        with pytest.raises(PostgresUnavailable):
            await dependencies.contexts.assemble("default", conversation_id, 2, reply_request)
        assert time.monotonic() - started < 4.0
        await postgres.mend()


async def test_a_summary_stands_for_the_items_before_it_and_pinned_ones_are_marked(
    small: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    ids = await write.append(conversation_id, "b", "c", "d")
    await write.execute(conversation_id, PinItem(item_id=ids[0]))
    await write.compact(conversation_id, ids[1], 3, "They spelled.")

    body = await context(small, conversation_id)

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


async def test_the_budget_is_counted_as_the_model_counts(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    text = "Ünïcödé 雪が降る — نص عربي 🙂 " * 20
    conversation_id = await write.start(*[text] * 20, context_policy=ContextPolicy(budget=3_000))
    async with open_api(settings.model_copy(update={"default_model": MODEL})) as api:
        for model, encoding in (("gpt-4", "cl100k_base"), ("gpt-4o", "o200k_base")):
            answer = await api.get(f"/v1/conversations/{conversation_id}/context", params={"model": model})
            body = answer.json()
            each = count(text, encoding) + 4
            assert {item["tokens"] for item in body["items"]} == {each}
            assert body["tokens"] == each * len(body["items"]) <= 3_000 < each * (len(body["items"]) + 1)
