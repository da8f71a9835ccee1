"""POST /v1/responses with `on_busy`."""

import asyncio
from typing import Any

import httpx
import pytest

from domain.events import ReplyFailed, ReplyQueued, ReplyRequested
from domain.reply_queue import MAX_QUEUED
from tests.commands.api_client import (
    create_conversation,
    error_of,
    events_of,
    eventually,
    message,
    output_text,
    post_response,
    sent_messages,
)
from tests.commands.slow_answers import SlowAnswers
from tests.commands.summarizing_store import talk
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 2_000}

PendingAnswer = asyncio.Task[httpx.Response]


@pytest.fixture
def slow(provider: ScriptedProvider) -> SlowAnswers:
    provider.script = slow = SlowAnswers()
    return slow


async def asking(slow: SlowAnswers, api: httpx.AsyncClient, text: str, conversation: str) -> PendingAnswer:
    """Asks `text`. Returns when the reply runs."""
    task = asyncio.create_task(post_response(api, text, conversation=conversation))
    await eventually(lambda: True if text in slow.questions else None)
    return task


async def waiting(log: Log, api: httpx.AsyncClient, text: Any, conversation: str, **body: Any) -> PendingAnswer:
    """Asks `text`. Returns when the reply is queued."""
    before = log.topics(conversation).count("reply.queued")
    body = {"on_busy": "queue", **body}
    task = asyncio.create_task(post_response(api, text, conversation=conversation, **body))
    await eventually(lambda: True if log.topics(conversation).count("reply.queued") > before else None)
    return task


def queued_ids(log: Log, conversation: str) -> list[str]:
    return [event.response_id for event in log.events(conversation) if isinstance(event, ReplyQueued)]


def requested_ids(log: Log, conversation: str) -> list[str]:
    return [event.response_id for event in log.events(conversation) if isinstance(event, ReplyRequested)]


async def test_queued_replies_of_two_apps_run_in_order(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    others = [await waiting(log, apis[number % 2], f"q{number}", conversation) for number in range(1, 5)]
    rejected = await post_response(apis[1], "rejected", conversation=conversation)
    assert error_of(rejected)[:2] == (409, "conversation_locked")
    assert rejected.headers["x-should-retry"] == "true"
    slow.release("q0")
    assert output_text((await first).json()) == "partial answer to q0"
    await eventually(lambda: True if "q1" in slow.questions else None)
    assert (await post_response(apis[0], "rejected", conversation=conversation)).status_code == 409
    slow.release()
    answers = [(await other).json() for other in others]
    assert [output_text(answer) for answer in answers] == [f"partial answer to q{n}" for n in range(1, 5)]
    assert slow.questions == [f"q{number}" for number in range(5)]
    assert [answer["id"] for answer in answers] == queued_ids(log, conversation)
    assert requested_ids(log, conversation)[1:] == queued_ids(log, conversation)
    history = [("user", "q0"), ("assistant", "partial answer to q0"), ("user", "q1")]
    assert sent_messages(provider.requests[1]) == history
    assert len(sent_messages(provider.requests[4])) == 9
    assert log.rows("SELECT FROM responses WHERE running") == []


async def test_on_busy_changes_nothing_without_a_running_reply(
    api: httpx.AsyncClient, log: Log, slow: SlowAnswers
) -> None:
    slow.release()
    conversation = await create_conversation(api)
    for on_busy in ("queue", "interrupt", "reject"):
        assert (await post_response(api, on_busy, conversation=conversation, on_busy=on_busy)).status_code == 200
    assert log.topics(conversation).count("reply.queued") == 0


async def test_a_seventeenth_waiting_reply_is_refused_until_others_are_cancelled_or_deleted(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    ids = []
    for number in range(MAX_QUEUED):
        body = {"conversation": conversation, "on_busy": "queue", "background": True}
        answer = await post_response(apis[number % 2], f"w{number}", **body)
        assert answer.json()["status"] == "queued", answer.text
        ids.append(answer.json()["id"])
    late = {"conversation": conversation, "on_busy": "queue"}
    refused = await post_response(apis[1], "late", **late)
    assert error_of(refused)[:2] == (409, "too_many_queued")
    assert refused.headers["x-should-retry"] == "true"
    continued = await post_response(apis[0], "next", previous_response_id=ids[0])
    assert error_of(continued) == (409, "response_in_progress", "previous_response_id")
    for number, response_id in enumerate(ids[:2]):  # one waits in each app
        cancelled = await apis[0].post(f"/v1/responses/{response_id}/cancel")
        assert cancelled.json()["status"] == "cancelled", number
        assert cancelled.json()["output"] == []
    assert (await apis[1].delete(f"/v1/responses/{ids[2]}")).status_code == 200
    late_task = await waiting(log, apis[1], "late", conversation)
    assert (await apis[1].delete(f"/v1/conversations/{conversation}")).status_code == 200
    for task in (first, late_task):
        assert error_of(await asyncio.wait_for(task, 10))[0] == 404
    assert slow.questions == ["q0"]
    assert log.rows("SELECT FROM responses WHERE running") == []


async def test_an_interrupting_reply_runs_before_queued_replies(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    waits = await waiting(log, apis[0], "waits", conversation)
    interrupting = await waiting(log, apis[1], "now", conversation, on_busy="interrupt")
    stopped = (await asyncio.wait_for(first, 10)).json()
    assert (stopped["status"], output_text(stopped)) == ("cancelled", "partial ")
    await eventually(lambda: True if "now" in slow.questions else None)
    newer = await waiting(log, apis[0], "newer", conversation, on_busy="interrupt")
    assert (await asyncio.wait_for(interrupting, 10)).json()["status"] == "cancelled"
    slow.release()
    assert (await newer).json()["status"] == "completed"
    assert (await waits).json()["status"] == "completed"
    assert slow.questions == ["q0", "now", "newer", "waits"]
    assert sent_messages(provider.requests[1]) == [("user", "now")]
    both = await post_response(apis[0], "x", conversation=conversation, on_busy="interrupt")  # no reply runs
    assert both.json()["status"] == "completed"


async def test_of_many_interrupting_replies_only_the_one_recorded_last_completes(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    body = {"conversation": conversation, "on_busy": "interrupt"}
    tasks = [asyncio.create_task(post_response(apis[n % 2], f"i{n}", **body)) for n in range(24)]
    await eventually(lambda: True if log.topics(conversation).count("reply.queued") == 24 else None, 30)
    ids = queued_ids(log, conversation)
    await eventually(lambda: True if requested_ids(log, conversation)[-1] == ids[-1] else None)
    slow.release()
    statuses = {answer.json()["id"]: answer.json()["status"] for answer in await asyncio.gather(first, *tasks)}
    assert statuses.pop(ids[-1]) == "completed"
    assert set(statuses.values()) == {"cancelled"}
    assert log.rows("SELECT FROM responses WHERE running") == []


async def test_a_reply_that_is_refused_at_its_turn_does_not_stop_the_queue(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    key = {"idempotency-key": "k1"}
    body = {"input": "word " * 5_000, "conversation": conversation, "on_busy": "queue"}
    too_long = asyncio.create_task(apis[0].post("/v1/responses", json=body, headers=key))
    await eventually(lambda: True if queued_ids(log, conversation) else None)
    [response_id] = queued_ids(log, conversation)
    streamed = await waiting(log, apis[1], "s", conversation, stream=True)
    slow.release()
    await first
    failed = await too_long
    assert error_of(failed) == (400, "context_length_exceeded", "input")
    assert failed.json()["error"]["response_id"] == response_id
    events = events_of(await streamed)
    kinds = [event["type"] for event in events[:4]]
    assert kinds == ["response.created", "response.queued", "response.in_progress", "response.output_item.added"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert events[-1]["response"]["status"] == "completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    repeated = await apis[1].post("/v1/responses", json=body, headers=key)
    assert error_of(repeated) == (400, "context_length_exceeded", "input")
    assert repeated.json()["error"]["response_id"] == response_id
    ended = await apis[0].post(f"/v1/conversations/{conversation}/end")
    assert ended.status_code == 200


async def test_the_recorded_message_of_a_late_refusal_does_not_quote_the_client(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    output = {"type": "function_call_output", "call_id": "a-secret", "output": "x"}
    refused = await waiting(log, apis[1], [output], conversation)
    slow.release()
    await first
    answer = await refused
    assert error_of(answer)[0] == 400
    assert "a-secret" in answer.text
    [failed] = [event for event in log.events(conversation) if isinstance(event, ReplyFailed)]
    assert failed.message == "The response could not be started when its turn came."


async def test_a_repeated_request_gets_the_queued_reply(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    body = {"input": "q1", "conversation": conversation, "on_busy": "queue", "background": True}
    headers = {"idempotency-key": "k1", "if-match": '"2"'}
    assert error_of(await apis[1].post("/v1/responses", json=body, headers={"if-match": '"1"'}))[0] == 412
    answers = [await api.post("/v1/responses", json=body, headers=headers) for api in (*apis, *apis)]
    assert {answer.json()["id"] for answer in answers} == set(queued_ids(log, conversation))
    assert {answer.json()["status"] for answer in answers} == {"queued"}
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true", "true"]
    await apis[0].post(f"/v1/conversations/{conversation}/items", json={"items": [message("between")]})
    slow.release()
    assert (await first).status_code == 200
    await eventually(lambda: True if log.topics(conversation).count("reply.completed") == 2 else None)
    assert slow.questions == ["q0", "q1"]


async def test_an_item_deleted_while_a_reply_waits_is_not_shown(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    conversation, other = await create_conversation(apis[0]), await create_conversation(apis[0])
    items = f"/v1/conversations/{other}/items"
    added = (await apis[0].post(items, json={"items": [message("secret"), message("kept")]})).json()["data"]
    first = await asking(slow, apis[0], "q0", conversation)
    secret, kept = ({"type": "item_reference", "id": item["id"]} for item in added)
    both = await waiting(log, apis[1], [secret, kept, message("q1")], conversation)
    alone = await waiting(log, apis[0], [secret], conversation)
    assert (await apis[0].delete(f"{items}/{added[0]['id']}")).status_code == 200
    slow.release()
    await first
    assert (await both).status_code == 200
    assert sent_messages(provider.requests[-1])[-2:] == [("user", "kept"), ("user", "q1")]
    assert error_of(await alone) == (404, "item_not_found", "input")
    assert log.topics(conversation)[-1] == "reply.failed"


async def test_the_summary_for_a_queued_reply_is_written_at_the_replys_turn(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    policy = {"strategy": "rolling_summary", "budget": 1_000}
    conversation = await create_conversation(apis[0], context_policy=policy)
    first = await asking(slow, apis[0], "q0", conversation)
    for start in range(0, 60, 20):
        turns = {"items": talk(30)[start : start + 20]}
        assert (await apis[0].post(f"/v1/conversations/{conversation}/items", json=turns)).status_code == 200
    waits = await waiting(log, apis[1], "q1", conversation)
    after = await waiting(log, apis[0], "q2", conversation)
    slow.release()
    await asyncio.gather(first, waits, after)
    kinds = ("context.compacted", "reply.queued", "reply.requested")
    topics = [topic for topic in log.topics(conversation) if topic in kinds]
    assert topics[:5] == [kinds[2], kinds[1], kinds[1], kinds[0], kinds[2]]


async def test_a_waiting_reply_fails_if_its_conversation_is_ended(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers
) -> None:
    conversation = await create_conversation(apis[0])
    first = await asking(slow, apis[0], "q0", conversation)
    waits = await waiting(log, apis[1], "q1", conversation)
    await apis[0].post(f"/v1/conversations/{conversation}/end")
    slow.release()
    await first
    assert error_of(await waits)[:2] == (409, "conversation_ended")
    assert log.topics(conversation)[-1] == "reply.failed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"on_busy": "wait"}, "on_busy"),
        ({"on_busy": "queue"}, "on_busy"),
        ({"on_busy": "interrupt", "previous_response_id": "resp_" + "0" * 32}, "on_busy"),
    ],
)
async def test_the_error_for_a_wrong_on_busy_names_the_parameter(
    api: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(await post_response(api, "hi", **body)) == (400, "invalid_value", param)


async def test_chats_refuse_on_busy_and_if_match_excludes_interrupt(
    api: httpx.AsyncClient,
) -> None:
    conversation = await create_conversation(api)
    chat = {"messages": [{"role": "user", "content": "hi"}], "on_busy": "queue", "conversation": conversation}
    assert error_of(await api.post("/v1/chat/completions", json=chat))[::2] == (400, "on_busy")
    body = {"input": "hi", "conversation": conversation, "on_busy": "interrupt"}
    refused = await api.post("/v1/responses", json=body, headers={"if-match": '"1"'})
    assert error_of(refused) == (400, "mutually_exclusive_parameters", "on_busy")
