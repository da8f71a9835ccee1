"""A refused request gets the stored answer if another process answered an equal request with the same key."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from msgspec import Struct

from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, error_of, message, open_api
from tests.commands.summarizing_store import Store, compactions, open_store, talk
from tests.log import Log
from tests.queries.proxy import Proxy
from tests.scripted_provider import Exchange, ScriptedProvider, SlowModels

KEY = {"Idempotency-Key": "k"}
WITH_PROVIDER = {"model_window": 100_000}
LOOKS_FOR_DELETIONS = b"bool_or(topic = 'reply.deleted')"
"""A part of the statement that finds out whether an inherited item is deleted."""

ITEM = "/items/{item}"


class StoppedApi(Struct):
    """When the api sends LOOKS_FOR_DELETIONS, `has_stopped` is set. The api then waits until `go_on` is called."""

    http: httpx.AsyncClient
    has_stopped: asyncio.Event
    proxy: Proxy

    async def go_on(self) -> None:
        await self.proxy.restore()


@asynccontextmanager
async def stopped_api(settings: Settings) -> AsyncIterator[StoppedApi]:
    has_stopped = asyncio.Event()

    def watch() -> Callable[[bytes], None]:
        def sent(data: bytes) -> None:
            if LOOKS_FOR_DELETIONS in data and not has_stopped.is_set():
                proxy.freeze()
                has_stopped.set()

        return sent

    proxy = Proxy(settings.postgres_url, watch)
    await proxy.restore()
    async with open_api(settings.model_copy(update={"postgres_url": proxy.url})) as http:
        try:
            yield StoppedApi(http, has_stopped, proxy)
        finally:
            await proxy.restore()
    await proxy.cut()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", ITEM, None),
        ("POST", f"{ITEM}/restore", None),
        ("POST", f"{ITEM}/pin", None),
        ("POST", f"{ITEM}/feedback", {"rating": 1}),
        ("POST", ITEM, {"item": message("revised")}),
        ("POST", "/head", {"item": "{item}"}),
        ("POST", "/fork", {"item": "{item}"}),
    ],
    ids=["delete", "restore", "pin", "feedback", "revise", "head", "fork"],
)
async def test_a_late_repeat_gets_the_first_answer_although_the_item_was_deleted(
    settings: Settings, api: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
) -> None:
    items = [message("a"), message("b")]
    origin = f"/v1/conversations/{await create_conversation(api, items=items)}"
    fork = (await api.post(f"{origin}/fork")).json()
    item_id = fork["forked_from"]["item"]
    fork_path = f"/v1/conversations/{fork['id']}"
    url = fork_path + path.format(item=item_id)
    sent = {name: item_id if value == "{item}" else value for name, value in body.items()} if body else None
    if path.endswith("restore"):
        await api.delete(fork_path + ITEM.format(item=item_id))
    elif path == "/head":
        await api.post(f"{fork_path}/items", json={"items": [message("c")]})

    async with stopped_api(settings) as second_api:
        late = asyncio.create_task(second_api.http.request(method, url, json=sent, headers=KEY))
        await asyncio.wait_for(second_api.has_stopped.wait(), 10)
        first = await api.request(method, url, json=sent, headers=KEY)
        assert (await api.delete(f"{origin}{ITEM.format(item=item_id)}")).status_code == 200
        await second_api.go_on()
        second = await late

    assert (first.status_code, second.status_code) == (200, 200), second.text
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.json()["id"], second.headers["etag"]) == (first.json()["id"], first.headers["etag"])


async def test_a_compaction_whose_model_fails_gets_the_answer_of_its_repeat(
    settings: Settings, store: Store, log: Log
) -> None:
    is_asked, may_fail = threading.Event(), threading.Event()

    def fail(exchange: Exchange) -> None:
        is_asked.set()
        may_fail.wait(20)
        exchange.json(400, {"error": {"message": "no", "type": "invalid_request_error"}})

    conversation_id = await create_conversation(store.api)
    await store.append(conversation_id, *talk(40))
    path = f"/v1/conversations/{conversation_id}/compact"
    failing = ScriptedProvider()
    async with open_store(settings, failing) as second_store:
        failing.script = fail
        late = asyncio.create_task(second_store.api.post(path, headers=KEY))
        assert await asyncio.to_thread(is_asked.wait, 10)
        first = await store.api.post(path, headers=KEY)
        may_fail.set()
        second = await late
    failing.close()
    assert (first.status_code, second.status_code) == (200, 200), second.text
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert len(compactions(log, conversation_id)) == 1


async def test_a_reply_for_which_no_model_is_found_gets_the_answer_of_its_repeat(
    settings: Settings, api: httpx.AsyncClient
) -> None:
    without_models = ScriptedProvider()
    without_models.models = slow = SlowModels()
    async with open_api(settings.model_copy(update={"openai_base_url": without_models.url})) as second_api:
        late = asyncio.create_task(second_api.post("/v1/responses", json={"input": "hi"}, headers=KEY))
        await create_response(api, "meanwhile")
        first = await api.post("/v1/responses", json={"input": "hi"}, headers=KEY)
        slow.released.set()
        second = await late
    without_models.close()
    assert (first.status_code, second.status_code) == (200, 200), second.text
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"


async def test_a_refused_request_with_the_key_of_another_request_gets_its_own_error(api: httpx.AsyncClient) -> None:
    response = await create_response(api, "hi")
    await api.post("/v1/conversations", json={}, headers=KEY)
    answer = await api.post(f"/v1/responses/{response['id']}/cancel", headers=KEY)
    assert error_of(answer) == (400, "response_over", "response_id")
