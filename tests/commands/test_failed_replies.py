"""Replies that fail in many ways. The error names the recorded response, if there is one."""

import socket
from typing import Any

import httpx
import pytest

from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, events_of, open_api, post_response
from tests.commands.provider_scripts import breaks_off, broken_json, html, refuses, silence
from tests.log import Log
from tests.scripted_provider import Exchange, Script, ScriptedProvider

WITH_PROVIDER = {"model_timeout": 0.5, "model_window": 2_000}


def status(code: int) -> Script:
    return lambda exchange: exchange.json(code, {"error": {"message": "secret of somebody"}}, x_should_retry="false")


def reports_error(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    exchange.chunk(error={"message": "secret of somebody"})


SCRIPTS: list[tuple[Script, int, str]] = [
    (refuses, 502, "model_error"),
    (html, 502, "model_error"),
    (broken_json, 502, "model_error"),
    (breaks_off, 502, "model_error"),
    (reports_error, 502, "model_error"),
    (silence, 504, "model_timeout"),
    (status(401), 502, "model_error"),
    (status(404), 400, "model_not_found"),
    (status(429), 502, "model_rate_limited"),
    (status(500), 502, "model_error"),
    (status(503), 502, "model_error"),
]


async def fail(api: httpx.AsyncClient, log: Log, expected: tuple[int, str]) -> None:
    """Requests a reply, then a streamed one. Both errors must name the recorded response."""
    conversation_id = await create_conversation(api)
    failed = await post_response(api, "hi", conversation=conversation_id)
    error = failed.json()["error"]
    assert (failed.status_code, error["code"]) == expected
    assert error["response_id"] in error["message"]
    assert "secret" not in failed.text
    streamed = events_of(await post_response(api, "hi", conversation=conversation_id, stream=True))
    assert streamed[-1]["type"] == "response.failed"
    on_record: list[Any] = [event for event in log.events(conversation_id) if "Failed" in type(event).__name__]
    assert [event.response_id for event in on_record] == [error["response_id"], streamed[-1]["response"]["id"]]


async def test_the_error_of_a_failed_reply_names_the_response_on_record(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    for script, http_status, code in SCRIPTS:
        provider.script = script
        await fail(api, log, (http_status, code))
    for _ in range(3):
        await post_response(api, "hi")
    provider.requests.clear()
    await fail(api, log, (502, "model_unavailable"))
    assert provider.requests == []


async def test_the_error_names_the_response_if_the_provider_cannot_be_reached(settings: Settings, log: Log) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    changed = {"openai_base_url": url, "default_model": "m"}
    async with open_api(settings.model_copy(update=changed)) as api:
        await fail(api, log, (502, "model_error"))


async def test_without_redis_the_error_names_the_response_on_record(
    settings: Settings, log: Log, provider: ScriptedProvider
) -> None:
    changed = {"openai_base_url": provider.url, "redis_url": "redis://127.0.0.1:1/0"}
    async with open_api(settings.model_copy(update=changed)) as api:
        provider.script = breaks_off
        await fail(api, log, (502, "model_error"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "hi"}),
        ("/v1/chat/completions", {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "store": True}),
    ],
)
async def test_a_repeated_request_gets_the_same_error(
    api: httpx.AsyncClient, provider: ScriptedProvider, path: str, body: dict[str, Any]
) -> None:
    provider.script = breaks_off
    answers = [await api.post(path, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["error"]["response_id"].startswith("resp_")


@pytest.mark.parametrize("body", [{"store": False}, {"conversation": f"conv_{'0' * 32}"}])
async def test_an_error_names_no_response_if_none_is_on_record(
    api: httpx.AsyncClient, provider: ScriptedProvider, body: dict[str, Any]
) -> None:
    provider.script = breaks_off
    assert "response_id" not in (await post_response(api, "hi", **body)).json()["error"]
