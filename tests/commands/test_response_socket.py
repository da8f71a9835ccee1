"""Responses over a WebSocket. The messages are the events of a streamed POST."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus

from commands.open_sockets import SocketLimits
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, eventually, message, output_text, sent_messages
from tests.commands.served_api import (
    ServedApi,
    answer_of,
    closed_with,
    create,
    error_to,
    response_to,
    served_api,
    socket_error,
)
from tests.files.samples import data_uri, png, with_image
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

IDS = re.compile(rb"((?:resp|conv|msg)_)[0-9a-f]{32}")
TIMES = re.compile(rb'("(?:created|completed)_at":)\d+')
NOT_FOUND = (400, "previous_response_not_found", "previous_response_id")

BAD_INPUT: list[tuple[Any, tuple[int, str, str | None]]] = [
    (b"\x00\x01", (400, "invalid_value", None)),
    ("{", (400, "invalid_json", None)),
    ("", (400, "invalid_json", None)),
    ("[1]", (400, "invalid_value", None)),
    ("[" * 500 + "]" * 500, (400, "invalid_value", None)),
    ({"input": "x"}, (400, "missing_required_parameter", "type")),
    ({"type": "response.cancel"}, (400, "invalid_value", "type")),
    ({"type": 7}, (400, "invalid_value", "type")),
    ({"type": "response.steer", "input": "x"}, (400, "steering_not_supported", "type")),
    ({"type": "response.create"}, (400, "missing_required_parameter", "input")),
    ({"type": "response.create", "input": "x", "stream": True}, (400, "unsupported_parameter", "stream")),
    ({"type": "response.create", "input": "x", "stream_options": {}}, (400, "unsupported_parameter", "stream_options")),
    ({"type": "response.create", "input": "x", "background": True}, (400, "unsupported_parameter", "background")),
    ({"type": "response.create", "input": "x", "stream_id": "a"}, (400, "unsupported_parameter", "stream_id")),
    ({"type": "response.create", "input": "x", "generate": False}, (400, "unsupported_parameter", "generate")),
    ({"type": "response.create", "input": "x", "model": "none"}, (400, "model_not_found", "model")),
    ({"type": "response.create", "input": "x", "temperature": 9}, (400, "invalid_value", "temperature")),
    ({"type": "response.create", "input": "x" * 5_000_000}, (413, "request_too_large", None)),
]


@pytest.fixture
def with_provider(settings: Settings, provider: ScriptedProvider) -> Settings:
    return settings.model_copy(update={"openai_base_url": provider.url})


@pytest.fixture
async def served(with_provider: Settings) -> AsyncIterator[ServedApi]:
    async with served_api(with_provider) as api:
        yield api


class Paused:
    """Sends one word. Sends the rest after `go_on` is set."""

    def __init__(self) -> None:
        self.has_begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("one")
        self.has_begun.set()
        self.go_on.wait(20)
        exchange.text_chunk(" two")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()


async def test_a_refused_long_request_is_repeated_with_less_context(
    served: ServedApi, provider: ScriptedProvider
) -> None:
    def refuse_long(exchange: Exchange) -> None:
        if json.dumps(exchange.body).count("word") > 1_000:
            exchange.json(
                400, {"error": {"message": "request (2100 tokens) exceeds the available context size", "n_ctx": 1_000}}
            )
        else:
            exchange.stream_text("fine")

    provider.script = refuse_long
    turn = [message("word " * 150), message("yes", "assistant")]
    conversation = await create_conversation(served.http, items=turn * 10)
    async with served.socket() as client:
        for _ in range(2):
            response = (await create(client, "now", conversation=conversation))[-1]["response"]
            assert (response["status"], output_text(response)) == ("completed", "fine")
        unstored = (await create(client, "now", store=False, previous_response_id=response["id"]))[-1]["response"]
        assert unstored["status"] == "completed"
    sizes = [json.dumps(request).count("word") for request in provider.requests]
    assert sizes == [1_500, 150, 150, 150]


async def test_a_deleted_file_is_not_sent_again_from_an_unstored_reply(
    served: ServedApi, provider: ScriptedProvider
) -> None:
    image = png(1_000)
    form: dict[str, Any] = {"files": {"file": ("cat.png", image)}, "data": {"purpose": "vision"}}
    file_id = (await served.http.post("/v1/files", **form)).json()["id"]
    async with served.socket() as client:
        first = (await create(client, [with_image(file_id=file_id)], store=False))[-1]["response"]
        assert data_uri(image) in json.dumps(provider.requests[-1])
        second = (await create(client, "two", store=False, previous_response_id=first["id"]))[-1]["response"]
        assert data_uri(image) in json.dumps(provider.requests[-1])
        assert (await served.http.delete(f"/v1/files/{file_id}")).status_code == 200
        await create(client, "three", previous_response_id=second["id"])
    sent = json.dumps(provider.requests[-1])
    assert data_uri(image) not in sent
    assert "two" in sent


async def test_the_messages_have_the_same_data_as_the_events_of_a_post(served: ServedApi, log: Log) -> None:
    posted = (await served.http.post("/v1/responses", json={"input": "hi", "stream": True})).content
    blocks = [block for block in posted.split(b"\n\n") if block.startswith(b"event: ")]
    async with served.socket() as client:
        await client.send(json.dumps({"type": "response.create", "input": "hi"}))
        messages = [(await client.recv(decode=False)) for _ in blocks]
        assert [_same_for_all(message) for message in messages] == [
            _same_for_all(block.split(b"\ndata: ", 1)[1]) for block in blocks
        ]
        response = json.loads(messages[-1])["response"]
        next_response = await served.http.post(
            "/v1/responses", json={"input": "and?", "previous_response_id": response["id"]}
        )
        assert next_response.json()["conversation"] == response["conversation"]
    assert log.topics(response["conversation"]["id"])[:5] == [
        "conversation.started",
        "reply.requested",
        "item.appended",
        "item.appended",
        "reply.completed",
    ]


def topics(log: Log) -> list[str]:
    return [topic for (topic,) in log.rows("SELECT topic FROM events")]


def _same_for_all(event: bytes) -> bytes:
    """The event without its ids and times."""
    return TIMES.sub(rb"\g<1>0", IDS.sub(rb"\1", event))


async def test_an_unstored_chain_continues_only_on_its_own_connection(
    served: ServedApi, log: Log, provider: ScriptedProvider
) -> None:
    async with served.socket() as client, served.socket() as other:
        first = await response_to(client, "one", store=False)
        second = await response_to(client, "two", store=False, previous_response_id=first["id"], instructions="Brief.")
        assert (second["store"], second["conversation"], second["previous_response_id"]) == (False, None, first["id"])
        # The connection remembers this item.
        question = [{"type": "item_reference", "id": second["output"][0]["id"]}, message("three")]
        third = await response_to(client, question, store=False, previous_response_id=second["id"])
        assert sent_messages(provider.requests[-2])[0] == ("system", "Brief.")
        assert sent_messages(provider.requests[-1]) == [
            ("user", "one"),
            ("assistant", "Hello, world!"),
            ("user", "two"),
            ("assistant", "Hello, world!"),
            ("user", "three"),
        ]
        # A connection remembers only its last response.
        assert await error_to(client, store=False, previous_response_id=first["id"]) == NOT_FOUND
        assert await error_to(other, store=False, previous_response_id=third["id"]) == NOT_FOUND
        posted = await served.http.post("/v1/responses", json={"input": "x", "previous_response_id": third["id"]})
        assert posted.json()["error"]["code"] == "previous_response_not_found"
        # A refused request without a previous response changes nothing.
        assert await error_to(client, None) == (400, "missing_required_parameter", "input")
        await response_to(client, "four", store=False, previous_response_id=third["id"])
    assert topics(log) == []


async def test_a_chain_may_mix_stored_and_unstored_responses(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    async with served.socket() as client:
        stored = await response_to(client, "stored")
        between = await response_to(client, "not stored", store=False, previous_response_id=stored["id"])
        between = await response_to(client, "nor this", store=False, previous_response_id=between["id"])
        next_stored = await response_to(client, "stored again", previous_response_id=between["id"])
        assert next_stored["conversation"] == stored["conversation"]
    last = await served.http.post(
        "/v1/responses", json={"input": "over HTTP", "previous_response_id": next_stored["id"]}
    )
    assert last.json()["conversation"] == stored["conversation"]
    assert [text for role, text in sent_messages(provider.requests[-1]) if role == "user"] == [
        "stored",
        "not stored",
        "nor this",
        "stored again",
        "over HTTP",
    ]
    items = [topic for topic in log.topics(stored["conversation"]["id"]) if topic == "item.appended"]
    assert len(items) == 10


async def test_a_chain_continues_without_items_that_were_deleted_meanwhile(
    served: ServedApi, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(served.http)
    items = [message("kept"), message("secret"), message("copied secret")]
    answer = await served.http.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
    _, secret, copied = (item["id"] for item in answer.json()["data"])
    stored = (await served.http.post("/v1/responses", json={"input": "a", "conversation": conversation_id})).json()
    async with served.socket() as client:
        request = [message("not stored"), {"type": "item_reference", "id": copied}]
        other = (await served.http.post("/v1/responses", json={"input": "b"})).json()
        first = await response_to(client, request, store=False, previous_response_id=other["id"])
        for deleted in (secret, copied):
            await served.http.delete(f"/v1/conversations/{conversation_id}/items/{deleted}")
        await response_to(client, "more", store=False, previous_response_id=first["id"])
        sent = [content for role, content in sent_messages(provider.requests[-1]) if role == "user"]
        assert sent == ["b", "not stored", "more"]
        first = await response_to(client, "x", store=False, previous_response_id=stored["id"])
        await response_to(client, "y", store=False, previous_response_id=first["id"])
        sent = [content for role, content in sent_messages(provider.requests[-1]) if role == "user"]
        assert sent == ["kept", "a", "x", "y"]


async def test_tool_outputs_continue_an_unstored_chain(served: ServedApi, provider: ScriptedProvider) -> None:
    def calls(exchange: Exchange) -> None:
        exchange.begin_stream()
        function = {"name": "look", "arguments": "{}"}
        exchange.delta(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": function}])
        exchange.text_chunk(finish_reason="tool_calls")
        exchange.end_stream()

    answers, provider.script = provider.script, calls
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    async with served.socket() as client:
        call = await response_to(client, "look", store=False, tools=tools)
        provider.script = answers
        output = {"type": "function_call_output", "call_id": "call_1", "output": "a tree"}
        await response_to(client, [output], store=False, tools=tools, previous_response_id=call["id"])
    assert [message["role"] for message in provider.requests[-1]["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("fails", ["request", "reply"])
async def test_a_connection_forgets_a_response_whose_continuation_fails(
    served: ServedApi, provider: ScriptedProvider, fails: str
) -> None:
    async with served.socket() as client:
        first = await response_to(client, "one", store=False)
        if fails == "request":
            output = {"type": "function_call_output", "call_id": "call_unknown", "output": "x"}
            assert (await error_to(client, [output], store=False, previous_response_id=first["id"]))[0] == 400
        else:
            answers, provider.script = provider.script, lambda exchange: exchange.json(500, {"error": {}})
            events = await create(client, "two", store=False, previous_response_id=first["id"])
            assert events[-1]["type"] == "response.failed"
            provider.script = answers
        assert await error_to(client, store=False, previous_response_id=first["id"]) == NOT_FOUND
        await response_to(client, "a new chain", store=False)


async def test_only_a_far_too_large_message_closes_the_socket(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    async with served.socket() as client:
        for message, error in BAD_INPUT:
            await client.send(json.dumps(message) if isinstance(message, dict) else message)
            assert socket_error(json.loads(await client.recv())) == error, str(message)[:100]
        assert (provider.requests, topics(log)) == ([], [])
        await response_to(client, "the socket still works", store=False)
        await client.send("x" * 10_000_000)
        assert socket_error(json.loads(await client.recv())) == (413, "request_too_large", None)
        assert (await closed_with(client))[0] == 1009


async def test_a_second_request_on_a_connection_is_refused_while_the_first_runs(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    provider.script = script = Paused()
    async with served.socket() as client:
        for text in ("first", "second"):
            await client.send(json.dumps({"type": "response.create", "input": text}))
        events = await answer_of(client)
        assert socket_error(events[-1]) == (409, "response_in_progress", None)
        script.go_on.set()
        rest = await answer_of(client)
        assert rest[-1]["type"] == "response.completed"
        assert len(provider.requests) == 1
    assert topics(log).count("reply.requested") == 1


async def test_a_reply_that_cannot_be_recorded_ends_with_an_error(
    served: ServedApi, provider: ScriptedProvider
) -> None:
    provider.script = script = Paused()
    conversation = await create_conversation(served.http)
    async with served.socket() as client:
        await client.send(json.dumps({"type": "response.create", "input": "hi", "conversation": conversation}))
        await asyncio.to_thread(script.has_begun.wait)
        assert (await served.http.delete(f"/v1/conversations/{conversation}")).status_code == 200
        script.go_on.set()
        assert socket_error((await answer_of(client))[-1])[:2] == (404, "not_found")
        await response_to(client, "the socket still works", store=False)


async def test_a_refusal_is_part_of_an_unstored_chain(served: ServedApi, provider: ScriptedProvider) -> None:
    def refuses(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.delta(refusal="I will not.")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    answers, provider.script = provider.script, refuses
    async with served.socket() as client:
        refused = await response_to(client, "one", store=False)
        provider.script = answers
        await response_to(client, "two", store=False, previous_response_id=refused["id"])
    assert [role for role, _ in sent_messages(provider.requests[-1])] == ["user", "assistant", "user"]


async def test_a_disconnect_stops_a_reply_without_an_idempotency_key(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    provider.script = script = Paused()
    async with served.socket() as client:
        await client.send(json.dumps({"type": "response.create", "input": "hi"}))
        while json.loads(await client.recv())["type"] != "response.output_text.delta":
            pass
    await eventually(lambda: "reply.interrupted" in topics(log) or None)

    request = json.dumps({"type": "response.create", "input": "again"})
    provider.script = script = Paused()
    async with served.socket(Idempotency_Key="one") as client:
        await client.send(request)
        await asyncio.to_thread(script.has_begun.wait)
    script.go_on.set()
    await eventually(lambda: "reply.completed" in topics(log) or None)
    async with served.socket(Idempotency_Key="one") as client:
        await client.send(request)
        repeated = await answer_of(client)
        assert [event["sequence_number"] for event in repeated] == list(range(len(repeated)))
        assert repeated[-1]["response"]["output"][0]["content"][0]["text"] == "one two"
        assert await error_to(client, "something else") == (422, "idempotency_key_reused", None)
    assert len(provider.requests) == 2


async def test_a_client_that_breaks_the_protocol_stops_its_reply(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    provider.script = script = Paused()
    with capture_logs() as logs:
        client = await served.socket()
        await client.send(json.dumps({"type": "response.create", "input": "hi"}))
        await asyncio.to_thread(script.has_begun.wait)
        client.transport.write(b"\x83\x80mask")
        assert (await closed_with(client))[0] == 1002
        script.go_on.set()
        await eventually(lambda: "reply.interrupted" in topics(log) or None)
    assert not [line for line in logs if line["log_level"] in ("error", "critical")]


async def test_the_if_match_header_of_the_handshake_applies_to_each_message(served: ServedApi) -> None:
    conversation = await create_conversation(served.http)
    async with served.socket(If_Match='"1"') as client:
        await response_to(client, conversation=conversation)
        assert await error_to(client, conversation=conversation) == (412, "version_mismatch", None)
    async with served.socket(If_Match="nonsense") as client:
        assert await error_to(client) == (400, "invalid_header", "If-Match")


async def test_a_web_page_of_another_site_cannot_open_a_socket(
    served: ServedApi, provider: ScriptedProvider, log: Log
) -> None:
    for origin in (
        "http://evil.example",
        "null",
        "",
        "http://[",
        "http://127.0.0.1",
        f"http://evil.example@{_host(served)}",
    ):
        with pytest.raises(InvalidStatus) as refused:
            await served.socket(Origin=origin)
        answer = refused.value.response
        assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (403, "origin_not_allowed")
    assert (provider.requests, log.count()) == ([], 0)
    async with served.socket(Origin=f"http://{_host(served)}") as client:
        await response_to(client)


def _host(served: ServedApi) -> str:
    return f"{served.http.base_url.host}:{served.http.base_url.port}"


async def test_a_connection_ends_when_it_is_too_old_or_unused(
    with_provider: Settings, provider: ScriptedProvider
) -> None:
    provider.script = script = Paused()
    async with (
        served_api(with_provider, SocketLimits(max_seconds=1)) as api,
        api.socket() as busy,
        api.socket() as idle,
    ):
        await busy.send(json.dumps({"type": "response.create", "input": "hi"}))
        assert socket_error((await answer_of(idle))[-1]) == (400, "websocket_connection_limit_reached", None)
        assert (await closed_with(idle))[0] == 1000
        script.go_on.set()
        assert (await answer_of(busy))[-1]["type"] == "response.completed"
        assert socket_error((await answer_of(busy))[-1])[1] == "websocket_connection_limit_reached"
        assert (await closed_with(busy))[0] == 1000
    provider.script = script = Paused()
    async with (
        served_api(with_provider, SocketLimits(unused_seconds=0.5)) as api,
        api.socket() as busy,
        api.socket() as idle,
    ):
        await busy.send(json.dumps({"type": "response.create", "input": "hi"}))
        assert await closed_with(idle) == (1000, "The connection was not used for too long.")
        script.go_on.set()
        assert (await answer_of(busy))[-1]["type"] == "response.completed"


async def test_a_stopping_server_closes_each_socket_after_its_reply_has_ended(
    with_provider: Settings, provider: ScriptedProvider
) -> None:
    provider.script = script = Paused()
    async with served_api(with_provider) as api, api.socket() as busy, api.socket() as idle:
        await busy.send(json.dumps({"type": "response.create", "input": "hi"}))
        await asyncio.to_thread(script.has_begun.wait)
        api.stop()
        assert await closed_with(idle) == (1001, "The server is stopping. Connect again.")
        script.go_on.set()
        assert (await answer_of(busy))[-1]["type"] == "response.completed"
        assert (await closed_with(busy))[0] == 1001


async def test_the_total_size_of_remembered_responses_is_limited(with_provider: Settings) -> None:
    limits = SocketLimits(unstored_bytes=10_000)
    async with (
        served_api(with_provider, limits) as api,
        api.socket() as one,
        api.socket() as two,
        api.socket() as three,
    ):
        first = await response_to(one, "a b " * 1000, store=False)
        second = await response_to(two, "a b " * 1000, store=False)
        third = await response_to(three, "a b " * 1000, store=False)
        assert await error_to(one, store=False, previous_response_id=first["id"]) == NOT_FOUND
        await response_to(two, store=False, previous_response_id=second["id"])
        await response_to(three, store=False, previous_response_id=third["id"])


async def test_each_message_is_counted_and_logged(served: ServedApi) -> None:
    with capture_logs() as logs:
        async with served.socket(X_Request_ID="mine") as client:
            assert client.response.headers["x-request-id"] == "mine"
            assert "open_sockets 1.0" in served.metrics.render()[0].decode()
            await response_to(client, store=False)
            await error_to(client, None)
    lines = [(line["method"], line["path"], line["status"]) for line in logs if line["event"] == "request"]
    assert ("WEBSOCKET", "/v1/responses", 200) in lines
    assert ("WEBSOCKET", "/v1/responses", 400) in lines
    page = served.metrics.render()[0].decode()
    assert 'http_requests_total{method="WEBSOCKET",route="/v1/responses",status="200"} 1.0' in page
    assert 'http_requests_total{method="WEBSOCKET",route="/v1/responses",status="400"} 1.0' in page


async def test_the_official_client_works_over_a_websocket(served: ServedApi, provider: ScriptedProvider) -> None:
    async with (
        AsyncOpenAI(base_url=f"{served.base_url}/v1", api_key="any") as openai,
        openai.responses.connect() as connection,
    ):
        previous = None
        for text in ("one", "two"):
            await connection.response.create(input=text, store=False, previous_response_id=previous)
            async for event in connection:
                if event.type == "response.completed":
                    assert event.response.output_text == "Hello, world!"
                    previous = event.response.id
                    break
        await connection.response.create(input="three", previous_response_id="resp_missing")
        async for event in connection:
            assert event.type == "error"
            assert (event.status, event.error.code) == (400, "previous_response_not_found")
            break
    assert [text for role, text in sent_messages(provider.requests[-1]) if role == "user"] == ["one", "two"]
