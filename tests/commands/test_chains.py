"""Replies with a `previous_response_id`, replies that are not stored, and the count of input tokens."""

import asyncio
import threading
from typing import Any

import httpx

from domain.events import ConversationStarted, ItemAppended, ReplyCompleted
from infrastructure.ids import mint
from tests.commands.api_client import (
    create_conversation,
    create_response,
    error_of,
    events_of,
    message,
    output_text,
    post_response,
    sent_messages,
)
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000}


async def test_a_chain_of_responses_is_one_unlisted_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    second = await create_response(api, "two", previous_response_id=first["id"])
    third = await create_response(api, "three", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    assert first["conversation"] == second["conversation"] == third["conversation"]
    assert sent_messages(provider.requests[-1]) == [
        ("user", "one"),
        ("assistant", "Hello, world!"),
        ("user", "two"),
        ("assistant", "Hello, world!"),
        ("user", "three"),
    ]
    started = log.events(first["conversation"]["id"])[0]
    assert isinstance(started, ConversationStarted)
    assert not started.listed


async def test_instructions_of_the_previous_response_are_not_sent_again(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one", instructions="Rhyme.")
    await create_response(api, "two", previous_response_id=first["id"])
    assert [role for role, _ in sent_messages(provider.requests[0])] == ["system", "user"]
    assert [role for role, _ in sent_messages(provider.requests[1])] == ["user", "assistant", "user"]


def users(request: dict[str, Any]) -> list[Any]:
    """The contents of the user messages."""
    return [content for role, content in sent_messages(request) if role == "user"]


async def test_continuing_from_an_earlier_response_opens_a_branch_without_the_later_items(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    second = await create_response(api, "two", previous_response_id=first["id"])
    other = await create_response(api, "other", previous_response_id=first["id"])
    more = await create_response(api, "more", previous_response_id=other["id"])
    assert users(provider.requests[-1]) == ["one", "other", "more"]
    back = await create_response(api, "three", previous_response_id=second["id"])
    assert users(provider.requests[-1]) == ["one", "two", "three"]
    await create_response(api, "four", previous_response_id=back["id"], store=False)
    assert users(provider.requests[-1]) == ["one", "two", "three", "four"]
    conversation_id = first["conversation"]["id"]
    assert {response["conversation"]["id"] for response in (second, other, more, back)} == {conversation_id}
    appended = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    parents = {event.item_id: event.parent_id for event in appended}
    outputs = [response["output"][0]["id"] for response in (first, second, other, more, back)]
    assert [parents[parents[output] or ""] for output in outputs] == [
        None,
        outputs[0],
        outputs[0],
        outputs[2],
        outputs[1],
    ]
    assert log.topics(conversation_id).count("conversation.started") == 1


async def test_continuing_from_a_response_in_a_listed_conversation_stays_in_that_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api, instructions="Be brief.")
    path = f"/v1/conversations/{conversation_id}/items"
    await api.post(path, json={"items": [message("before")]})
    first = await create_response(api, "one", conversation=conversation_id)
    second = await create_response(api, "two", previous_response_id=first["id"])
    await api.post(path, json={"items": [message("after")]})
    third = await create_response(api, "three", previous_response_id=first["id"])
    assert {response["conversation"]["id"] for response in (second, third)} == {conversation_id}
    assert users(provider.requests[-1]) == ["before", "one", "three"]
    assert sent_messages(provider.requests[-1])[0] == ("system", "Be brief.")
    assert log.topics(conversation_id).count("head.moved") == 1
    await api.post(f"/v1/conversations/{conversation_id}/end", json={})
    refused = await post_response(api, "four", previous_response_id=first["id"])
    assert error_of(refused)[:2] == (409, "conversation_ended")


async def test_simultaneous_requests_that_continue_from_one_response_all_get_an_answer(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    responses = await asyncio.gather(
        *(create_response(api, text, previous_response_id=first["id"]) for text in ("a", "b", "c"))
    )
    assert {response["conversation"]["id"] for response in responses} == {first["conversation"]["id"]}
    for request in provider.requests[1:]:
        assert users(request) in (["one", "a"], ["one", "b"], ["one", "c"])
    appended = [event for event in log.events(first["conversation"]["id"]) if isinstance(event, ItemAppended)]
    assert sum(event.parent_id == first["output"][0]["id"] for event in appended) == 3


async def test_continuing_from_a_failed_reply_sends_its_input_and_partial_output_again(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    def breaks_off(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("half of")

    first = await create_response(api, "one")
    working, provider.script = provider.script, breaks_off
    events = events_of(await post_response(api, "two", previous_response_id=first["id"], stream=True))
    broken = events[-1]["response"]
    assert broken["status"] == "failed"
    assert output_text(broken) == "half of"
    provider.script = working
    third = await create_response(api, "go on", previous_response_id=broken["id"])
    assert sent_messages(provider.requests[-1])[2:] == [("user", "two"), ("assistant", "half of"), ("user", "go on")]
    assert third["conversation"] == first["conversation"]
    completed = log.events(third["conversation"]["id"])[-1]
    assert isinstance(completed, ReplyCompleted)
    assert len(completed.input_ids) == 3


async def test_a_previous_response_that_does_not_exist_or_still_runs_is_refused(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    for unknown in ("resp_1", mint("resp")):
        answer = await post_response(api, "x", previous_response_id=unknown)
        assert error_of(answer) == (400, "previous_response_not_found", "previous_response_id")
    with_both = await post_response(api, "x", previous_response_id=mint("resp"), conversation=mint("conv"))
    assert error_of(with_both) == (400, "mutually_exclusive_parameters", "previous_response_id")
    assert log.count() == 0
    may_answer = threading.Event()

    def waits(exchange: Exchange) -> None:
        may_answer.wait(10)
        exchange.stream_text("done")

    provider.script = waits
    running = await create_response(api, "one", background=True)
    assert running["status"] == "queued"
    refused = await post_response(api, "two", previous_response_id=running["id"])
    assert error_of(refused) == (409, "response_in_progress", "previous_response_id")
    assert refused.headers["x-should-retry"] == "true"
    may_answer.set()


async def test_a_deleted_response_cannot_be_continued(api: httpx.AsyncClient, log: Log) -> None:
    first = await create_response(api, "one")
    deleted = await api.delete(f"/v1/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    answer = await post_response(api, "two", previous_response_id=first["id"])
    assert error_of(answer) == (400, "previous_response_not_found", "previous_response_id")
    assert (await api.delete(f"/v1/responses/{first['id']}")).status_code == 404
    assert log.topics(first["conversation"]["id"]).count("item.appended") == 2


async def test_a_response_with_store_false_leaves_no_event(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "one")
    before = log.count()
    answer = await create_response(api, "two", previous_response_id=first["id"], store=False)
    assert output_text(answer) == "Hello, world!"
    assert answer["conversation"] is None
    assert answer["store"] is False
    streamed = events_of(await post_response(api, "three", store=False, stream=True))
    assert streamed[-1]["type"] == "response.completed"
    assert log.count() == before
    assert [content for role, content in sent_messages(provider.requests[1]) if role == "user"] == ["one", "two"]
    for other in ({"background": True}, {"conversation": await create_conversation(api)}):
        refused = await post_response(api, "x", store=False, **other)
        assert error_of(refused) == (400, "mutually_exclusive_parameters", "store")


async def test_the_count_of_input_tokens_includes_history_instructions_and_tools(
    api: httpx.AsyncClient, log: Log
) -> None:
    async def counted(**body: object) -> int:
        answer = await api.post("/v1/responses/input_tokens", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "response.input_tokens"
        return int(answer.json()["input_tokens"])

    input_only = await counted(input="two")
    first = await create_response(api, "one")
    before = log.count()
    with_history = await counted(input="two", previous_response_id=first["id"])
    with_instructions = await counted(input="two", instructions="Be brief.")
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    with_tools = await counted(input="two", tools=[tool])
    assert input_only < min(with_history, with_instructions, with_tools)
    assert log.count() == before


async def test_the_input_carried_over_from_failed_replies_is_limited(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    def breaks_off(exchange: Exchange) -> None:
        exchange.begin_stream()

    provider.script = breaks_off
    file = {"type": "input_file", "filename": "a", "file_data": "!" * 970_000}  # not base64, so it stays in the item
    four_files = [{"role": "user", "content": [file]}] * 4
    previous: dict[str, str] = {}
    answers = []
    for _ in range(3):
        answers.append(await api.post("/v1/responses", json={"input": four_files, "stream": True, **previous}))
        if answers[-1].status_code == 200:
            previous = {"previous_response_id": events_of(answers[-1])[0]["response"]["id"]}
    assert [answer.status_code for answer in answers] == [200, 200, 413]
    assert error_of(answers[-1]) == (413, "request_too_large", "previous_response_id")
