"""Replies: what is asked goes on record before the provider is asked, and its end whatever happens."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from context.rendering import request_sha256
from domain.events import ItemAppended, ReplyCompleted, ReplyFailed, ReplyRequested
from tests.commands.test_conversations import create, message
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_timeout": 2.5, "model_window": 2_000}

EVENT_ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def ask(api: httpx.AsyncClient, text: str, **body: Any) -> httpx.Response:
    return await api.post("/v1/responses", json={"input": text, **body})


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = answer.text.strip().split("\n\n")
    return [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks]


async def test_a_reply_joins_its_conversation_with_what_it_was_asked(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create(api)
    answer = await ask(api, "hi", conversation=conversation_id)
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == "Hello, world!"
    assert body["usage"]["total_tokens"] == 11
    assert log.topics(conversation_id) == [
        "conversation.started",
        "reply.requested",
        "item.appended",
        "item.appended",
        "reply.completed",
    ]
    completed = log.events(conversation_id)[-1]
    assert isinstance(completed, ReplyCompleted)
    assert completed.delta_lengths == (5, 2, 5, 1)
    assert answer.headers["etag"] == '"5"'


async def test_the_second_reply_is_shown_the_first_turn_and_the_record_says_so(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create(api, instructions="Be brief.")
    await ask(api, "one", conversation=conversation_id)
    await ask(api, "two", conversation=conversation_id)
    sent = provider.requests[1]
    assert [(m["role"], m["content"]) for m in sent["messages"]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "Hello, world!"),
        ("user", "two"),
    ]
    events = log.events(conversation_id)
    requested = [event for event in events if isinstance(event, ReplyRequested)]
    items = [event.item_id for event in events if isinstance(event, ItemAppended)]
    assert [(r.first, r.last, r.count) for r in requested[1].shown.ranges] == [(items[0], items[1], 2)]
    assert requested[1].shown.request_sha256 == request_sha256(sent)


async def test_a_stream_has_the_events_in_the_official_order(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create(api)
    answer = await ask(api, "hi", conversation=conversation_id, stream=True)
    events = events_of(answer)
    kinds = [event["type"] for event in events]
    assert list(dict.fromkeys(kinds)) == EVENT_ORDER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == "Hello, world!"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello, world!"
    assert log.topics(conversation_id)[-1] == "reply.completed"


async def test_without_a_conversation_a_reply_gets_an_unlisted_one(api: httpx.AsyncClient, log: Log) -> None:
    body = (await ask(api, "hi")).json()
    started = log.events(body["conversation"]["id"])[0]
    assert getattr(started, "listed") is False  # noqa: B009


def refuses(exchange: Exchange) -> None:
    exchange.json(400, {"error": {"message": "secret of somebody"}})


def html(exchange: Exchange) -> None:
    exchange.raw(200, b"<html>It works!</html>", "text/html")


def no_stream(exchange: Exchange) -> None:
    exchange.json(200, {"choices": []})


def broken_json(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    exchange.wfile.write(b"data: {not json\n\n")


def breaks_off(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    exchange.text_chunk("tial")


def wrong_shape(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.wfile.write(b'data: {"choices": [{"delta": 7}], "model": []}\n\ndata: "text"\n\ndata: 3\n\n')
    exchange.end_stream()


def silence(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.text_chunk("par")
    threading.Event().wait(5)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (refuses, 502),
        (html, 502),
        (no_stream, 502),
        (broken_json, 502),
        (breaks_off, 502),
        (wrong_shape, 502),
        (silence, 504),
    ],
)
async def test_a_provider_that_fails_is_on_record_and_the_next_turn_works(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, script: Any, status: int
) -> None:
    conversation_id = await create(api)
    working = provider.script
    provider.script = script
    failed = await ask(api, "hi", conversation=conversation_id)
    assert failed.status_code == status, failed.text
    assert failed.headers["x-should-retry"] == "false"
    assert failed.json()["error"]["type"] == "model_error"
    assert "secret" not in failed.text
    assert log.topics(conversation_id) == ["conversation.started", "reply.requested", "reply.failed"]
    provider.script = working
    assert (await ask(api, "hi again", conversation=conversation_id)).status_code == 200


async def test_a_stream_whose_provider_fails_says_so_and_keeps_the_part_that_came(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create(api)
    provider.script = breaks_off
    events = events_of(await ask(api, "hi", conversation=conversation_id, stream=True))
    assert events[-1]["type"] == "response.failed"
    failed = log.events(conversation_id)[-1]
    assert isinstance(failed, ReplyFailed)
    [said] = [json.loads(kept.item) for kept in failed.output]
    assert said["content"][0]["text"] == "partial"
    assert said["status"] == "incomplete"


async def test_an_input_that_does_not_fit_is_a_400_and_leaves_no_event(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create(api)
    answer = await ask(api, "word " * 5000, conversation=conversation_id)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert log.count() == 1


async def test_what_does_not_fit_is_left_out_in_whole_turns(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create(api)
    for n in range(6):
        turn = [message(f"question {n} " + "word " * 150), message(f"answer {n}", "assistant")]
        await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": turn})
    await ask(api, "now", conversation=conversation_id)
    roles = [m["role"] for m in provider.requests[-1]["messages"]]
    assert 3 <= len(roles) < 13
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    disabled = await ask(api, "now", conversation=conversation_id, truncation="disabled")
    assert disabled.json()["error"]["code"] == "context_length_exceeded"


async def test_a_parameter_that_can_not_be_honoured_is_refused_by_name(api: httpx.AsyncClient, log: Log) -> None:
    for name, value in {
        "prompt": {"id": "p"},
        "top_logprobs": 3,
        "previous_response_id": "resp_1",
        "nope": 1,
    }.items():
        answer = await ask(api, "hi", **{name: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
    assert log.count() == 0


async def test_concurrent_replies_take_turns_and_with_appends_between_them_nothing_is_lost(
    api: httpx.AsyncClient, log: Log
) -> None:
    conversation_id = await create(api)
    path = f"/v1/conversations/{conversation_id}/items"

    async def in_turn(text: str) -> None:
        while (answer := await ask(api, text, conversation=conversation_id)).status_code == 409:
            assert answer.json()["error"]["code"] == "conversation_locked"
            assert answer.headers["x-should-retry"] == "true"
        assert answer.status_code == 200

    await asyncio.gather(
        *(in_turn(f"q{n}") for n in range(5)),
        *(api.post(path, json={"items": [message(f"m{n}")]}) for n in range(10)),
    )
    appended = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert len(appended) == 20
    assert [event.depth for event in appended] == list(range(1, 21))
    assert [event.parent_id for event in appended] == [None, *(event.item_id for event in appended[:-1])]


async def test_a_repeated_request_for_a_reply_gets_the_first_answer_though_all_has_changed(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create(api)
    key = {"Idempotency-Key": "ask-1"}
    body = {"input": "hi", "conversation": conversation_id}
    answers = await asyncio.gather(*(api.post("/v1/responses", json=body, headers=key) for _ in range(4)))
    await api.post(f"/v1/conversations/{conversation_id}/end")
    answers.append(await api.post("/v1/responses", json=body, headers=key))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["output"][0]["id"] for answer in answers}) == 1
    first = next(answer for answer in answers if "idempotent-replayed" not in answer.headers)
    again = [answer for answer in answers if "idempotent-replayed" in answer.headers]
    assert len(again) == 4
    assert all(answer.json() == first.json() and answer.headers["etag"] == first.headers["etag"] for answer in again)
    assert len(provider.requests) == 1
    other = await api.post("/v1/responses", json={**body, "input": "other"}, headers=key)
    assert other.status_code == 422


async def test_a_repeated_stream_is_the_same_events_again(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    conversation_id = await create(api)
    body = {"input": "hi", "conversation": conversation_id, "stream": True}
    key = {"Idempotency-Key": "ask-2"}
    first = events_of(await api.post("/v1/responses", json=body, headers=key))
    again = events_of(await api.post("/v1/responses", json=body, headers=key))
    assert again == first
    assert len(provider.requests) == 1


async def test_a_repeat_of_a_reply_that_failed_fails_alike(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    provider.script = silence
    answers = [
        await api.post("/v1/responses", json={"input": "hi"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [504, 504]
    assert answers[0].json() == answers[1].json()
    assert len(provider.requests) == 1


def odd(**fields: Any) -> Any:
    """A provider whose last chunk has these fields, of types that the API does not know."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("ok")
        exchange.chunk(**{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **fields})
        exchange.end_stream()

    return script


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"usage": {"prompt_tokens": 12.5, "completion_tokens": 2**63, "prompt_tokens_details": 3}}, 200),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": True, "total_tokens": None}}, 200),
        ({"model": 5}, 502),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": 7}]}, 502),
        ({"choices": [{"index": 0, "delta": {"content": ["x"]}, "finish_reason": "stop"}]}, 502),
        ({"choices": [{"index": 0, "delta": {"content": "\ud83d"}, "finish_reason": "stop"}]}, 502),
        ({"choices": [{"index": 0}]}, 502),
    ],
)
async def test_what_a_provider_may_not_send_never_becomes_an_event_that_can_not_be_read(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, fields: dict[str, Any], status: int
) -> None:
    conversation_id = await create(api)
    provider.script = odd(**fields)
    answer = await ask(api, "hi", conversation=conversation_id)
    assert answer.status_code == status, answer.text
    assert log.topics(conversation_id)[-1] == ("reply.completed" if status == 200 else "reply.failed")


async def test_an_input_that_grows_as_it_is_given_back_is_a_413(api: httpx.AsyncClient, log: Log) -> None:
    item = '{"type":"x","a":[' + ",".join(["1e15"] * 50_000) + "]}"
    body = '{"input":[' + ",".join([item] * 12) + "]}"
    assert len(body) < 4 * 1024 * 1024
    answer = await api.post("/v1/responses", content=body)
    assert answer.status_code == 413
    assert log.count() == 0
