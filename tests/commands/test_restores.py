"""Postgres is restored from a backup, or loses rows, while the command API runs."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, error_of, events_of, message, post_response
from tests.fixtures.postgres_tools import dump_custom, restore_over
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.servers import wait_until_async

WITH_PROVIDER = {"model_timeout": 30.0}


class SlowProvider:
    """Answers when `release` is called."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self.requested, self._released = threading.Event(), threading.Event()
        provider.script = self._answer

    def release(self) -> None:
        self._released.set()

    def _answer(self, exchange: Exchange) -> None:
        self.requested.set()
        self._released.wait(20)
        exchange.stream_text("lost")


@pytest.fixture
def slow_provider(provider: ScriptedProvider) -> Iterator[SlowProvider]:
    slow_provider = SlowProvider(provider)
    yield slow_provider
    slow_provider.release()


@asynccontextmanager
async def reply_without_its_request(
    api: httpx.AsyncClient, settings: Settings, slow_provider: SlowProvider, **body: object
) -> AsyncIterator[tuple[str, "asyncio.Task[httpx.Response]"]]:
    """Starts a reply, and removes its request from the log.

    Yields the conversation's id and the task that waits for the answer.
    """
    conversation_id = await create_conversation(api)
    answering = asyncio.create_task(post_response(api, "hi", conversation=conversation_id, **body))
    assert await asyncio.to_thread(slow_provider.requested.wait, 20)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        await connection.execute("DELETE FROM events WHERE originator_version > 1")
    slow_provider.release()
    yield conversation_id, answering


async def test_a_reply_whose_request_is_lost_ends_with_an_error(
    api: httpx.AsyncClient, settings: Settings, slow_provider: SlowProvider, log: Log
) -> None:
    async with reply_without_its_request(api, settings, slow_provider) as (conversation_id, answering):
        answer = await answering
    assert error_of(answer) == (503, "response_lost", None)
    assert log.topics(conversation_id) == ["conversation.started"]
    await create_response(api, "again", conversation=conversation_id)
    assert log.topics(conversation_id)[-1] == "reply.completed"


async def test_a_stream_whose_request_is_lost_ends_with_an_error(
    api: httpx.AsyncClient, settings: Settings, slow_provider: SlowProvider, log: Log
) -> None:
    async with reply_without_its_request(api, settings, slow_provider, stream=True) as (conversation_id, answering):
        events = events_of(await answering)
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "response_lost")
    assert log.versions(conversation_id) == [1]


async def test_a_reply_whose_conversation_is_deleted_is_a_404(
    api: httpx.AsyncClient, slow_provider: SlowProvider
) -> None:
    conversation_id = await create_conversation(api)
    answering = asyncio.create_task(post_response(api, "hi", conversation=conversation_id))
    assert await asyncio.to_thread(slow_provider.requested.wait, 20)
    assert (await api.delete(f"/v1/conversations/{conversation_id}")).status_code == 200
    slow_provider.release()
    assert (await answering).status_code == 404


async def test_commands_during_a_restore_are_answered_with_200_or_503(
    api: httpx.AsyncClient, settings: Settings, log: Log, tmp_path: Path
) -> None:
    conversation_ids = [await create_conversation(api) for _ in range(3)]
    dump_custom(settings.postgres_url, tmp_path / "backup")
    restored = asyncio.Event()
    statuses: Counter[tuple[str, int]] = Counter()

    async def send(kind: str, path: str, body: dict[str, object], **headers: str) -> None:
        while not restored.is_set():
            keys = {name: f"{value}-{statuses.total()}" for name, value in headers.items()}
            answer = await api.post(path, json=body, headers=keys)
            statuses[kind, answer.status_code] += 1

    def all_were_served(times: int) -> bool:
        return all(statuses[kind, 200] >= times for kind in ("append", "create", "reply"))

    sending = [
        asyncio.create_task(work)
        for work in (
            *(
                send("append", f"/v1/conversations/{conversation_id}/items", {"items": [message("x")]})
                for conversation_id in conversation_ids[:2]
            ),
            send("create", "/v1/conversations", {}, **{"idempotency-key": "k"}),
            send("reply", "/v1/responses", {"input": "hi", "conversation": conversation_ids[2]}),
        )
    ]
    for times in (3, 6, 9):
        await wait_until_async(partial(all_were_served, times), 30, "commands to be served")
        await asyncio.to_thread(restore_over, settings.postgres_url, tmp_path / "backup")
    await wait_until_async(partial(all_were_served, 12), 30, "commands to be served after the last restore")
    restored.set()
    await asyncio.gather(*sending)
    assert {status for _, status in statuses} <= {200, 503}, statuses
    for conversation_id in conversation_ids:
        versions = log.versions(conversation_id)
        assert versions == list(range(1, len(versions) + 1))


async def test_a_reply_is_not_made_from_lost_items(
    api: httpx.AsyncClient, settings: Settings, provider: ScriptedProvider, log: Log
) -> None:
    conversation_id = await create_conversation(api)
    await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": [message("lost")]})

    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute(
            "DELETE FROM events WHERE originator_id = %s AND originator_version = 2", [uuid_of(conversation_id)]
        )
    await create_response(api, "hi", conversation=conversation_id)
    [request] = provider.requests
    assert "lost" not in str(request["messages"])
    assert log.versions(conversation_id) == list(range(1, len(log.versions(conversation_id)) + 1))
