"""What a model would be sent: what was left out is told as far as it is known, and a Postgres that hangs is not waited for."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from infrastructure.context import Asked
from infrastructure.settings import Settings
from queries.log_access import LogAway
from queries.main import open_sources
from tests.queries.conftest import open_api
from tests.queries.proxy import Proxy
from tests.queries.store import Projector, Writer

MODEL = "any"
WINDOW = 2_000
TEXT = "word " * 40
"""Some forty tokens."""


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The query API with a model that is shown some twenty of these texts, and must be asked for in pages of the log."""
    async with open_api(settings.model_copy(update={"default_model": MODEL, "model_window": WINDOW})) as api:
        yield api


async def context(api: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/context")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_left_out_are_the_items_that_stand_before_those_shown(
    small: httpx.AsyncClient, write: Writer, projector: Projector
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
    small: httpx.AsyncClient, write: Writer, projector: Projector
) -> None:
    conversation_id = await write.start()
    ids = await write.append(conversation_id, *[TEXT] * 500)

    body = await context(small, conversation_id)

    newest_left_out = ids[-len(body["items"]) - 1]
    assert body["left_out"] == [{"from": None, "to": newest_left_out, "count": None, "reason": "budget"}]


async def test_nothing_is_left_out_where_all_is_shown(
    small: httpx.AsyncClient, write: Writer, projector: Projector
) -> None:
    conversation_id = await write.start("a")
    [first] = await write.append(conversation_id, "b")
    await write.retract(conversation_id, first)

    assert (await context(small, conversation_id))["left_out"] == []


async def test_a_postgres_that_hangs_while_a_context_is_read_is_not_waited_for(
    settings: Settings, postgres: Proxy, write: Writer
) -> None:
    conversation_id = await write.start("a")
    asked = Asked(model=MODEL, parameters={})
    async with open_sources(settings.model_copy(update={"postgres_url": postgres.url})) as sources:
        await sources.contexts.assemble("default", conversation_id, 2, asked)
        postgres.freeze()
        started = time.monotonic()
        with pytest.raises(LogAway):
            await sources.contexts.assemble("default", conversation_id, 2, asked)
        assert time.monotonic() - started < 4.0
        await postgres.mend()
