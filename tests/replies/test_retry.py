"""`retry` in POST /v1/responses: a failed or stopped turn is tried again without sending the input again."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from domain.events import ItemAppended, ItemRetracted
from domain.items import without_listed_fields
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.commands.api_client import error_of, output_text
from tests.commands.provider_scripts import breaks_off
from tests.commands.served_api import answer_of, socket_error
from tests.log import Log
from tests.principals import HEADER, headers_of
from tests.replies.stopped_cases import FINISHED, Case, StopReason, Stops
from tests.scripted_provider import Exchange, ScriptedProvider


async def post(http: httpx.AsyncClient, path: str = "/v1/responses", **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def list_of(http: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    answer = await http.get(path, params={"order": "asc"})
    assert answer.status_code == 200, answer.text
    return [without_listed_fields(item) for item in answer.json()["data"]]


def texts(items: list[dict[str, Any]]) -> list[str]:
    return ["".join(part["text"] for part in item["content"]) for item in items]


async def failed(http: httpx.AsyncClient, provider: ScriptedProvider, **body: Any) -> str:
    """Asks, and the provider breaks off after `partial`. Returns the id of the response."""
    usual, provider.script = provider.script, breaks_off
    answer = await http.post("/v1/responses", json={"input": "Why?", **body})
    provider.script = usual
    assert answer.status_code == 502
    return str(answer.json()["error"]["response_id"])


STOP_REASONS: tuple[StopReason, ...] = ("cancel", "leave stream", "leave socket", "provider error")


async def test_a_stopped_or_failed_turn_is_tried_again(
    settings: Settings, http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    stops = Stops(provider, http, [str(http.base_url).rstrip("/")])
    policies = ("drop", "keep")
    planned = [
        Case(number, reason, policies[number % 2], "stop", "text")
        for number, reason in enumerate(reason for reason in STOP_REASONS for _ in policies)
    ]
    asking = await asyncio.gather(*map(stops.begin, planned))
    await asyncio.gather(*map(stops.stop, planned, asking))

    async def try_again(case: Case) -> None:
        stops.let_finish(case)
        first, conversation = stops.responses[case.number], stops.conversations[case.number]
        second = await post(http, retry=first)
        assert (second["status"], second["conversation"]["id"]) == ("completed", conversation)
        items = await list_of(http, f"/v1/conversations/{conversation}/items")
        assert texts(items) == [case.question, FINISHED[0][1]]
        assert items[1:] == second["output"]
        entries = await list_of(http, f"/v1/conversations/{conversation}/responses")
        assert [(entry["id"], entry["status"]) for entry in entries] == [
            (first, case.status),
            (second["id"], "completed"),
        ]
        assert texts(entries[0]["output"]) == ([] if case.joins else ["one two "])
        sent = [request for request in provider.requests if request["messages"][-1]["content"] == case.question]
        assert [request["messages"] for request in sent] == [[{"role": "user", "content": case.question}]] * 2
        retractions = [event for event in log.events(conversation) if isinstance(event, ItemRetracted)]
        assert len(retractions) == case.joins
        topics = log.topics(conversation)
        if case.joins:
            assert topics[-4:] == ["item.retracted", "reply.requested", "item.appended", "reply.completed"]
            commands = "SELECT count(DISTINCT command_id) FROM events WHERE originator_id = %s AND originator_version IN (%s, %s)"
            assert log.rows(commands, uuid_of(conversation), len(topics) - 3, len(topics) - 2) == [(1,)]
        moved = await http.post("/v1/responses", json={"retry": first})
        assert error_of(moved) == (409, "head_moved", None)

    for case in planned:
        await try_again(case)
    async with open_stores(settings) as stores:
        verified = await verify(stores, lambda _done, _total: None, wait=10)
    assert verified.differences == []


async def test_a_retry_reuses_parameters_that_are_not_given_again(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    look = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": None}
    first = await failed(
        http,
        provider,
        instructions="Be brief.",
        temperature=0.5,
        tools=[look],
        tool_choice="auto",
        metadata={"a": "b"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        reasoning={"effort": "low"},
    )
    same = await post(http, retry=first)
    before, after = provider.requests[-2:]
    assert before == after
    assert (same["temperature"], same["metadata"], same["tools"][0]["name"]) == (0.5, {"a": "b"}, "look")
    assert same["background"] is False
    assert log.rows("SELECT count(*) FROM events WHERE topic = 'item.appended'") == [(2,)]

    first = await failed(http, provider, temperature=0.5, tools=[look], metadata={"a": "b"}, background=False)
    choice = {"type": "function", "name": "look"}
    other = await post(http, retry=first, temperature=0.1, metadata=None, tool_choice=choice, model="scripted")
    assert (other["temperature"], other["metadata"], other["tool_choice"]) == (0.1, {}, choice)
    answer = await http.post("/v1/responses", json={"retry": first, "tool_choice": {"type": "function", "name": "no"}})
    assert error_of(answer) == (400, "invalid_value", "tool_choice.name")
    streamed = await http.post("/v1/responses", json={"retry": await failed(http, provider), "stream": True})
    assert streamed.text.rstrip().rpartition("event: ")[2].startswith("response.completed")


async def test_a_retry_in_a_chain_shows_the_model_the_earlier_failed_reply(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    start = await post(http, input="one")
    chain = {"previous_response_id": start["id"]}
    first = await failed(http, provider, **chain)
    second = await failed(http, provider, input="And why?", previous_response_id=first)
    third = await failed(http, provider, input="never mind", previous_response_id=second, retry=None)
    retried = await post(http, retry=second)
    assert retried["previous_response_id"] == first
    assert retried["conversation"] == start["conversation"]
    contents = [message["content"] for message in provider.requests[-1]["messages"]]
    assert contents == ["one", "Hello, world!", "Why?", "partial", "And why?"]
    assert error_of(await http.post("/v1/responses", json={"retry": third})) == (409, "head_moved", None)
    is_not_stopped = await post(http, input="so?", previous_response_id=retried["id"])
    contents = [message["content"] for message in provider.requests[-1]["messages"]]
    assert contents == ["one", "Hello, world!", "Why?", "partial", "And why?", "Hello, world!", "so?"]
    assert is_not_stopped["conversation"] == start["conversation"]


async def test_a_failed_retry_can_be_tried_again(http: httpx.AsyncClient, provider: ScriptedProvider, log: Log) -> None:
    first = await failed(http, provider)
    second = await failed(http, provider, input=None, retry=first)
    key = {"Idempotency-Key": "again"}
    third = await http.post("/v1/responses", json={"retry": second}, headers=key)
    assert third.json()["status"] == "completed"
    repeated = await http.post("/v1/responses", json={"retry": second}, headers=key)
    assert repeated.json() == third.json()
    assert repeated.headers["idempotent-replayed"] == "true"
    assert log.rows("SELECT count(*) FROM events WHERE topic = 'reply.requested'") == [(3,)]
    with_key = {"json": {"retry": await failed(http, provider)}, "headers": {"Idempotency-Key": "twice"}}
    both = await asyncio.gather(*(http.post("/v1/responses", **with_key) for _ in range(2)))  # type: ignore[arg-type]
    assert len({answer.json()["id"] for answer in both}) == 1


async def test_a_retry_that_cannot_be_done_is_refused_with_the_reason(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    conversation = (await post(http, "/v1/conversations"))["id"]

    async def refused(**body: Any) -> tuple[int, str | None, str | None]:
        return error_of(await http.post("/v1/responses", json=body))

    completed = await post(http, input="hi", conversation=conversation)
    assert await refused(retry=completed["id"]) == (400, "response_over", "retry")
    for unknown in (mint("resp"), "resp_1", "", conversation):
        assert await refused(retry=unknown) == (404, "not_found", "retry")
    broken = await failed(http, provider, conversation=conversation)
    for name, value in {
        "input": "x",
        "conversation": conversation,
        "previous_response_id": completed["id"],
        "store": False,
        "on_busy": "queue",
    }.items():
        assert await refused(retry=broken, **{name: value}) == (400, "mutually_exclusive_parameters", name)
    assert await refused(retry=7) == (400, "invalid_value", "retry")
    counted = await http.post("/v1/responses/input_tokens", json={"retry": broken})
    assert error_of(counted) == (400, "unsupported_parameter", "retry")
    strangers = await http.post("/v1/responses", json={"retry": broken}, headers=headers_of("ben"))
    assert error_of(strangers) == (404, "not_found", "retry")
    await post(http, f"/v1/conversations/{conversation}/shares", **{"with": {"subject": "ben"}, "role": "reader"})
    readers = await http.post("/v1/responses", json={"retry": broken}, headers=headers_of("ben"))
    assert error_of(readers)[:2] == (403, "not_allowed")
    await post(http, f"/v1/conversations/{conversation}/end")
    assert (await refused(retry=broken))[:2] == (409, "conversation_ended")
    await post(http, f"/v1/conversations/{conversation}/reopen")
    await http.delete(f"/v1/responses/{broken}")
    assert await refused(retry=broken) == (404, "not_found", "retry")

    stops = Stops(provider, http, [str(http.base_url).rstrip("/")])
    running = Case(0, "cancel", "keep", "stop", "long text")
    asking = await stops.begin(running)
    first = stops.responses[0]
    assert await refused(retry=first) == (409, "response_in_progress", "retry")
    await stops.stop(running, asking)
    path = f"/v1/conversations/{stops.conversations[0]}"
    await post(http, path, context_policy={"budget": 700, "stopped": "keep"})
    await post(http, f"{path}/compact", model="scripted")
    assert await refused(retry=first) == (409, "answer_is_summarized", "retry")
    await post(http, f"{path}/compact/undo")
    stops.let_finish(running)
    assert (await post(http, retry=first))["status"] == "completed"


async def test_a_chat_completion_with_its_own_messages_cannot_be_tried_again(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    usual, provider.script = provider.script, breaks_off
    messages = [{"role": "user", "content": "hi"}]
    answer = await http.post("/v1/chat/completions", json={"model": "scripted", "messages": messages})
    provider.script = usual
    refused = await http.post("/v1/responses", json={"retry": answer.json()["error"]["response_id"]})
    assert error_of(refused) == (400, "unsupported_value", "retry")


@pytest.mark.parametrize("deletes", ["question", "answer"])
async def test_a_retry_does_not_bring_back_deleted_items_of_a_kept_turn(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log, deletes: str
) -> None:
    stops = Stops(provider, http, [str(http.base_url).rstrip("/")])
    case = Case(0, "cancel", "keep", "stop", "text")
    await stops.stop(case, await stops.begin(case))
    conversation = stops.conversations[0]
    question, answer = await list_of(http, f"/v1/conversations/{conversation}/items")
    deleted = question if deletes == "question" else answer
    await http.delete(f"/v1/conversations/{conversation}/items/{deleted['id']}")
    stops.let_finish(case)
    second = await http.post("/v1/responses", json={"retry": stops.responses[0]})
    if deletes == "answer":
        assert second.status_code == 200
        assert [message["content"] for message in provider.requests[-1]["messages"]] == [case.question]
        assert sum(isinstance(event, ItemRetracted) for event in log.events(conversation)) == 1
    else:
        assert error_of(second) == (400, "input_deleted", "retry")


async def test_a_turn_that_failed_on_a_branch_is_retried_on_that_branch(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    conversation = (await post(http, "/v1/conversations"))["id"]
    one = await post(http, input="one", conversation=conversation)
    await post(http, input="two", conversation=conversation)
    broken = await failed(http, provider, previous_response_id=one["id"])
    second = await post(http, retry=broken)
    assert second["conversation"]["id"] == conversation
    assert [message["content"] for message in provider.requests[-1]["messages"]] == ["one", "Hello, world!", "Why?"]
    items = await list_of(http, f"/v1/conversations/{conversation}/items")
    assert texts(items) == ["one", "Hello, world!", "Why?", "Hello, world!"]
    back = await post(http, input="go on", previous_response_id=broken)
    assert back["conversation"]["id"] == conversation
    sent = [message["content"] for message in provider.requests[-1]["messages"]]
    assert sent == ["one", "Hello, world!", "Why?", "partial", "go on"]


async def test_repeated_retries_on_a_branch_show_the_question_once(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    conversation = (await post(http, "/v1/conversations"))["id"]
    one = await post(http, input="one", conversation=conversation)
    await post(http, input="two", conversation=conversation)
    broken = await failed(http, provider, previous_response_id=one["id"])
    answers = await asyncio.gather(*(http.post("/v1/responses", json={"retry": broken}) for _ in range(2)))
    answered = [answer.status_code for answer in answers].count(200)
    assert {answer.status_code for answer in answers} <= {200, 409}  # the first retry may have ended
    assert (await post(http, retry=broken))["conversation"]["id"] == conversation
    assert [message["content"] for message in provider.requests[-1]["messages"]] == ["one", "Hello, world!", "Why?"]
    items = await list_of(http, f"/v1/conversations/{conversation}/items")
    assert texts(items) == ["one", "Hello, world!", "Why?", "Hello, world!"]
    appended = [event for event in log.events(conversation) if isinstance(event, ItemAppended)]
    assert len({event.item_id for event in appended}) == len(appended) == 4 + 2 * (answered + 1)
    questions = [event for event in appended if b"Why?" in event.item]
    assert [question.copy_of for question in questions] == [None, *[questions[0].item_id] * answered]
    await http.delete(f"/v1/conversations/{conversation}/items/{questions[0].item_id}")
    assert "Why?" not in texts(await list_of(http, f"/v1/conversations/{conversation}/items"))


async def test_a_turn_is_tried_again_after_the_head_was_moved_back(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    conversation = (await post(http, "/v1/conversations"))["id"]
    await post(http, input="one", conversation=conversation)
    head = (await list_of(http, f"/v1/conversations/{conversation}/items"))[-1]["id"]
    broken = await failed(http, provider, conversation=conversation)
    for _ in range(3):
        await post(http, retry=broken)
        await post(http, f"/v1/conversations/{conversation}/head", item=head)
    appended = [event.item_id for event in log.events(conversation) if isinstance(event, ItemAppended)]
    assert len({*appended}) == len(appended) == 2 + 3 * 2


async def test_the_retry_of_a_kept_turn_follows_the_question_on_the_branch(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    policy = {"context_policy": {"stopped": "keep"}}
    conversation = (await post(http, "/v1/conversations", **policy))["id"]
    one = await post(http, input="one", conversation=conversation)
    await post(http, input="two", conversation=conversation)
    usual, may_end, stopped = provider.script, threading.Event(), ""

    def pauses(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("partial")
        may_end.wait(20)

    provider.script = pauses
    body = {"input": "Why?", "previous_response_id": one["id"], "stream": True}
    async with http.stream("POST", "/v1/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            event: dict[str, Any] = json.loads(line[6:]) if line.startswith("data: ") else {"type": ""}
            if event["type"] == "response.created":
                stopped = event["response"]["id"]
            if event["type"].endswith("text.delta"):
                await post(http, f"/v1/responses/{stopped}/cancel")
    provider.script = usual
    may_end.set()
    await post(http, retry=stopped)
    assert [message["content"] for message in provider.requests[-1]["messages"]] == ["one", "Hello, world!", "Why?"]
    items = await list_of(http, f"/v1/conversations/{conversation}/items")
    assert texts(items) == ["one", "Hello, world!", "Why?", "Hello, world!"]


async def test_only_one_of_two_simultaneous_retries_succeeds(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    conversation = (await post(http, "/v1/conversations"))["id"]
    broken = await failed(http, provider, conversation=conversation)
    old = await http.post("/v1/responses", json={"retry": broken}, headers={"If-Match": '"1"'})
    assert old.status_code == 412
    answers = await asyncio.gather(*(http.post("/v1/responses", json={"retry": broken}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert log.topics(conversation).count("item.appended") == 2
    broken = await failed(http, provider, conversation=conversation)
    version = len(log.topics(conversation))
    new = await http.post("/v1/responses", json={"retry": broken}, headers={"If-Match": f'"{version}"'})
    assert new.status_code == 200


async def test_a_response_is_tried_again_over_a_websocket(http: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    broken = await failed(http, provider)
    url = f"{http.base_url}/v1/responses".replace("http", "ws", 1)
    headers = {HEADER: http.headers[HEADER]}
    async with connect(url, additional_headers=headers) as socket:
        await socket.send(json.dumps({"type": "response.create", "retry": broken}))
        last = (await answer_of(socket))[-1]
        assert last["type"] == "response.completed"
        assert output_text(last["response"]) == "Hello, world!"
        await socket.send(json.dumps({"type": "response.create", "retry": last["response"]["id"]}))
        assert socket_error((await answer_of(socket))[-1]) == (400, "response_over", "retry")
