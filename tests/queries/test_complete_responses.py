"""Every Response has all its fields. The POST, the stream, a later GET and a rebuild give the same Response."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from infrastructure.settings import Settings
from projections.rebuild.rebuild import Rebuild
from tests.commands.api_client import events_of, open_api
from tests.commands.complete_response import CompleteResponse
from tests.commands.provider_scripts import breaks_off
from tests.projections.world import World
from tests.queries.conftest import open_api as open_query_api
from tests.queries.manual_projector import ManualProjector
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

Json = dict[str, Any]


PARAMETERS: Json = {
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "reasoning": {"effort": "low"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "user": "u",
    "metadata": {"a": "b"},
    "service_tier": "flex",
    "max_tool_calls": 2,
    "client_metadata": {"session": "1"},
}
REPORTED_USAGE = {
    "prompt_tokens": 90,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 15},
}
USAGE_OF_RESPONSE = {
    "input_tokens": 90,
    "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 15},
    "total_tokens": 110,
}


def check(response: Json) -> None:
    """The Response must have all fields, and the fields must fit its status."""
    CompleteResponse.model_validate(response)
    assert (response["completed_at"] is not None) == (response["status"] == "completed")
    assert (response["incomplete_details"] is not None) == (response["status"] == "incomplete")
    assert (response["usage"] is not None) <= (response["status"] in ("completed", "incomplete"))
    assert (response["status"] == "failed") <= (response["error"] is not None)


class Store:
    def __init__(self, settings: Settings, provider: ScriptedProvider, query: httpx.AsyncClient) -> None:
        self.settings = settings
        self.provider = provider
        self.query = query

    async def get(self, response_id: str) -> Json:
        answer = await self.query.get(f"/v1/responses/{response_id}")
        assert answer.status_code == 200, answer.text
        response: Json = answer.json()
        check(response)
        return response

    async def streamed(self, response_id: str) -> list[Json]:
        answer = await self.query.get(f"/v1/responses/{response_id}", params={"stream": "true"})
        return responses_in(answer)


def responses_in(answer: httpx.Response) -> list[Json]:
    responses = [event["response"] for event in events_of(answer) if "response" in event]
    for response in responses:
        check(response)
    return responses


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(params=["chat", "responses"])
async def store(
    request: pytest.FixtureRequest, settings: Settings, provider: ScriptedProvider, live: ManualProjector
) -> AsyncIterator[Store]:
    changes = {"openai_base_url": provider.url, "model_api": request.param, "default_model": "scripted"}
    settings = settings.model_copy(update=changes)
    async with open_query_api(settings) as query:
        yield Store(settings, provider, query)


def answers(finish: str, reported_tier: str | None) -> Callable[[Exchange], None]:
    """A script that answers in the API of the request."""

    def script(exchange: Exchange) -> None:
        tier = {} if reported_tier is None else {"service_tier": reported_tier}
        if exchange.path.endswith("/responses"):
            part = {"type": "output_text", "text": "Hello", "annotations": []}
            details = {"incomplete_details": {"reason": "max_output_tokens"}} if finish == "length" else {}
            exchange.stream_items(
                {"id": "msg_1", "type": "message", "role": "assistant", "content": [part]},
                status="incomplete" if finish == "length" else "completed",
                usage=USAGE_OF_RESPONSE,
                **tier,
                **details,
            )
            return
        exchange.begin_stream()
        exchange.text_chunk("Hello")
        exchange.text_chunk(finish_reason=finish)
        exchange.chunk(choices=[], usage=REPORTED_USAGE, **tier)
        exchange.end_stream()

    return script


class Paused:
    """A script that waits in the middle until `released` is set. The answer gets no end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        if exchange.path.endswith("/responses"):
            exchange.event("response.output_item.added", output_index=0, item={"id": "m", "type": "message", "role": "assistant", "content": []})  # fmt: skip
            exchange.event("response.output_text.delta", item_id="m", output_index=0, content_index=0, delta="par")
        else:
            exchange.text_chunk("par")
        self.begun.set()
        self.released.wait(10)


async def rebuild_responses(settings: Settings) -> None:
    world = World(settings)
    await world.pool.open()
    try:
        rebuilt = Rebuild(
            ["responses"],
            settings=settings,
            pool=world.pool,
            database=world.database,
            make_projector=world.projector,
            workers=1,
        )
        await rebuilt.run()
    finally:
        await world.close()


async def test_every_response_is_complete_and_the_same_everywhere(store: Store) -> None:
    ended: list[Json] = []
    async with open_api(store.settings) as api:
        for finish, status, tier, effective_tier in (
            ("stop", "completed", "default", "default"),
            ("stop", "completed", None, "flex"),
            ("length", "incomplete", "default", "default"),
        ):
            store.provider.script = answers(finish, tier)
            for parameters in ({}, PARAMETERS):
                answered = (await api.post("/v1/responses", json={"input": "hi", **parameters})).json()
                check(answered)
                assert (answered["status"], answered["usage"]) == (status, USAGE_OF_RESPONSE)
                ended.append(answered)
                stream = responses_in(
                    await api.post("/v1/responses", json={"input": "hi", "stream": True, **parameters})
                )
                assert [response["status"] for response in stream] == ["in_progress", "in_progress", status]
                ended.append(stream[-1])
            assert ended[-1]["service_tier"] == effective_tier
            assert {name: ended[-1][name] for name in ("temperature", "user", "client_metadata")} == {
                name: PARAMETERS[name] for name in ("temperature", "user", "client_metadata")
            }
        not_stored = (await api.post("/v1/responses", json={"input": "hi", "store": False, **PARAMETERS})).json()
        check(not_stored)
        assert (not_stored["store"], not_stored["conversation"]) == (False, None)

        store.provider.script = breaks_off
        failed = responses_in(await api.post("/v1/responses", json={"input": "hi", "stream": True, **PARAMETERS}))[-1]
        assert (failed["status"], failed["service_tier"]) == ("failed", "flex")

        store.provider.script = paused = Paused()
        queued = (await api.post("/v1/responses", json={"input": "hi", "background": True, **PARAMETERS})).json()
        check(queued)
        await asyncio.to_thread(paused.begun.wait, 10)
        assert (await store.get(queued["id"]))["status"] == "in_progress"
        cancelled = (await api.post(f"/v1/responses/{queued['id']}/cancel")).json()
        check(cancelled)
        assert cancelled["status"] == "cancelled"
        paused.released.set()

        store.provider.script = paused = Paused()
        interrupted = (await api.post("/v1/responses", json={"input": "hi", "background": True})).json()
        await asyncio.to_thread(paused.begun.wait, 10)
    paused.released.set()  # the API that ran the reply is closed
    last = await store.get(interrupted["id"])
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})

    for rebuilt in (False, True):
        if rebuilt:
            await rebuild_responses(store.settings)
        for response in (*ended, failed, cancelled, last):
            assert await store.get(response["id"]) == response
            assert (await store.streamed(response["id"]))[-1] == response
