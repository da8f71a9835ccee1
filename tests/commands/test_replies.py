"""What the log records of a reply, and what the client gets."""

import asyncio
import json
from typing import Any

import httpx
import psycopg
import pytest

from context.rendering import request_sha256
from domain.events import ItemAppended, ReplyCompleted, ReplyFailed, ReplyRequested
from infrastructure.settings import Settings
from tests.commands.api_client import (
    create_conversation,
    create_response,
    events_of,
    message,
    post_response,
    sent_messages,
)
from tests.commands.provider_scripts import (
    breaks_off,
    broken_json,
    html,
    last_chunk_with,
    no_stream,
    refuses,
    silence,
    wrong_shape,
)
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

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


async def test_a_reply_is_appended_to_its_conversation_together_with_its_input(
    api: httpx.AsyncClient, log: Log
) -> None:
    conversation_id = await create_conversation(api)
    answer = await post_response(api, "hi", conversation=conversation_id)
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


async def test_the_second_request_shows_the_model_the_first_turn(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api, instructions="Be brief.")
    await post_response(api, "one", conversation=conversation_id)
    await post_response(api, "two", conversation=conversation_id)
    sent = provider.requests[1]
    assert sent_messages(sent) == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "Hello, world!"),
        ("user", "two"),
    ]
    events = log.events(conversation_id)
    requested = [event for event in events if isinstance(event, ReplyRequested)]
    items = [event.item_id for event in events if isinstance(event, ItemAppended)]
    assert [(shown.first, shown.last, shown.count) for shown in requested[1].shown.ranges] == [(items[0], items[1], 2)]
    assert requested[1].shown.request_sha256 == request_sha256(sent)


async def test_a_stream_has_the_events_in_the_official_order(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    answer = await post_response(api, "hi", conversation=conversation_id, stream=True)
    events = events_of(answer)
    types = [event["type"] for event in events]
    assert list(dict.fromkeys(types)) == EVENT_ORDER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (
        "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == "Hello, world!"
    )
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello, world!"
    assert log.topics(conversation_id)[-1] == "reply.completed"


async def test_a_reply_without_a_conversation_gets_an_unlisted_conversation(api: httpx.AsyncClient, log: Log) -> None:
    body = (await post_response(api, "hi")).json()
    started = log.events(body["conversation"]["id"])[0]
    assert getattr(started, "listed") is False  # noqa: B009


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
async def test_a_failed_reply_is_recorded_and_the_next_reply_works(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, script: Any, status: int
) -> None:
    conversation_id = await create_conversation(api)
    working = provider.script
    provider.script = script
    failed = await post_response(api, "hi", conversation=conversation_id)
    assert failed.status_code == status, failed.text
    assert failed.headers["x-should-retry"] == "false"
    assert failed.json()["error"]["type"] == "model_error"
    assert "secret" not in failed.text
    assert log.topics(conversation_id) == ["conversation.started", "reply.requested", "reply.failed"]
    provider.script = working
    assert (await post_response(api, "hi again", conversation=conversation_id)).status_code == 200


async def test_a_stream_whose_provider_fails_keeps_the_partial_output(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    provider.script = breaks_off
    events = events_of(await post_response(api, "hi", conversation=conversation_id, stream=True))
    assert events[-1]["type"] == "response.failed"
    failed = log.events(conversation_id)[-1]
    assert isinstance(failed, ReplyFailed)
    [stored] = failed.output
    item = json.loads(stored.item)
    assert item["content"][0]["text"] == "partial"
    assert item["status"] == "incomplete"


async def test_an_input_that_does_not_fit_is_a_400_and_leaves_no_event(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    answer = await post_response(api, "word " * 5000, conversation=conversation_id)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert log.count() == 1


async def test_turns_that_do_not_fit_in_the_budget_are_left_out(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    for n in range(6):
        turn = [message(f"question {n} " + "word " * 150), message(f"answer {n}", "assistant")]
        await api.post(f"/v1/conversations/{conversation_id}/items", json={"items": turn})
    await post_response(api, "now", conversation=conversation_id)
    roles = [role for role, _ in sent_messages(provider.requests[-1])]
    assert 3 <= len(roles) < 13
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    disabled = await post_response(api, "now", conversation=conversation_id, truncation="disabled")
    assert disabled.json()["error"]["code"] == "context_length_exceeded"


async def test_a_parameter_that_cannot_be_accepted_is_a_400_that_names_it(api: httpx.AsyncClient, log: Log) -> None:
    for name, value in {
        "prompt": {"id": "p"},
        "top_logprobs": 3,
        "previous_response_id": "resp_1",
        "nope": 1,
    }.items():
        answer = await post_response(api, "hi", **{name: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
    assert log.count() == 0


async def test_concurrent_replies_take_turns_and_lose_no_append(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"

    async def retry_while_locked(text: str) -> None:
        while (answer := await post_response(api, text, conversation=conversation_id)).status_code == 409:
            assert answer.json()["error"]["code"] == "conversation_locked"
            assert answer.headers["x-should-retry"] == "true"
        assert answer.status_code == 200

    await asyncio.gather(
        *(retry_while_locked(f"q{n}") for n in range(5)),
        *(api.post(path, json={"items": [message(f"m{n}")]}) for n in range(10)),
    )
    appended = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert len(appended) == 20
    assert [event.depth for event in appended] == list(range(1, 21))
    assert [event.parent_id for event in appended] == [None, *(event.item_id for event in appended[:-1])]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"usage": {"prompt_tokens": 12.5, "completion_tokens": 2**63, "prompt_tokens_details": 3}}, 200),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": True, "total_tokens": None}}, 200),
        ({"model": 5}, 502),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": 7}]}, 502),
        ({"choices": [{"index": 0, "delta": {"content": ["x"]}, "finish_reason": "stop"}]}, 502),
        ({"choices": [{"index": 0, "delta": {"content": "\ud83d"}, "finish_reason": "stop"}]}, 200),
        ({"choices": [{"index": 0}]}, 502),
    ],
)
async def test_a_reply_with_invalid_values_is_recorded_as_completed_or_failed(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider, fields: dict[str, Any], status: int
) -> None:
    conversation_id = await create_conversation(api)
    provider.script = last_chunk_with(**fields)
    answer = await post_response(api, "hi", conversation=conversation_id)
    assert answer.status_code == status, answer.text
    assert log.topics(conversation_id)[-1] == ("reply.completed" if status == 200 else "reply.failed")


async def test_the_size_of_an_input_is_measured_in_its_stored_form(api: httpx.AsyncClient, log: Log) -> None:
    item = '{"type":"x","a":[' + ",".join(["1e15"] * 50_000) + "]}"
    body = '{"input":[' + ",".join([item] * 12) + "]}"
    assert len(body) < 4 * 1024 * 1024
    answer = await api.post("/v1/responses", content=body)
    assert answer.status_code == 413
    assert log.count() == 0


_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'data_exception'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW
        WHEN (NEW.topic IN ('reply.completed', 'reply.failed')) EXECUTE FUNCTION refuse()
"""


async def test_a_reply_whose_end_cannot_be_recorded_ends_with_an_error(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    await create_response(api, "so that the tables exist")
    async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
        await connection.execute(_REFUSE)
        try:
            events = events_of(await post_response(api, "hi", stream=True))
            response = await post_response(api, "hi")
        finally:
            await connection.execute("DROP FUNCTION refuse CASCADE")
    assert events[-1]["type"] == "error"
    assert events[-1]["response_id"] == events[0]["response"]["id"]
    assert response.status_code == 503
    assert response.json()["error"]["response_id"] in response.json()["error"]["message"]
