"""Replies that go on from others by `previous_response_id`: in a conversation that nobody lists, or in a fork beside it."""

import asyncio
import threading

import httpx

from domain.events import ConversationStarted, ReplyCompleted
from infrastructure.ids import mint
from tests.commands.replying import ask, asked, error_of, events_of, said, shown
from tests.commands.test_conversations import create, message
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 2_000}


async def test_a_chain_is_told_in_one_unlisted_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await asked(api, "one")
    second = await asked(api, "two", previous_response_id=first["id"])
    third = await asked(api, "three", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    assert first["conversation"] == second["conversation"] == third["conversation"]
    assert shown(provider.requests[-1]) == [
        ("user", "one"),
        ("assistant", "Hello, world!"),
        ("user", "two"),
        ("assistant", "Hello, world!"),
        ("user", "three"),
    ]
    started = log.events(first["conversation"]["id"])[0]
    assert isinstance(started, ConversationStarted)
    assert not started.listed


async def test_instructions_are_not_carried_over(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    first = await asked(api, "one", instructions="Rhyme.")
    await asked(api, "two", previous_response_id=first["id"])
    assert [role for role, _ in shown(provider.requests[0])] == ["system", "user"]
    assert [role for role, _ in shown(provider.requests[1])] == ["user", "assistant", "user"]


async def test_who_goes_on_from_an_earlier_response_gets_a_fork_and_sees_nothing_of_what_came_later(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await asked(api, "one")
    await asked(api, "two", previous_response_id=first["id"])
    beside = await asked(api, "other", previous_response_id=first["id"])
    further = await asked(api, "more", previous_response_id=beside["id"])
    assert beside["conversation"] != first["conversation"]
    assert further["conversation"] == beside["conversation"]
    assert [content for role, content in shown(provider.requests[-1]) if role == "user"] == ["one", "other", "more"]
    started = log.events(beside["conversation"]["id"])[0]
    assert isinstance(started, ConversationStarted)
    assert started.forked_from is not None
    assert started.forked_from.conversation_id == first["conversation"]["id"]
    assert started.family == first["conversation"]["id"]


async def test_who_goes_on_from_a_response_in_a_listed_conversation_leaves_it_as_it_is(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create(api, instructions="Be brief.")
    path = f"/v1/conversations/{conversation_id}/items"
    await api.post(path, json={"items": [message("before")]})
    first = await asked(api, "one", conversation=conversation_id)
    await api.post(path, json={"items": [message("after")]})
    before = log.topics(conversation_id)
    second = await asked(api, "two", previous_response_id=first["id"])
    assert log.topics(conversation_id) == before
    assert second["conversation"]["id"] != conversation_id
    users = [content for role, content in shown(provider.requests[-1]) if role == "user"]
    assert users == ["before", "one", "two"]


async def test_two_who_go_on_from_one_response_at_once_both_get_an_answer(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    first = await asked(api, "one")
    both = await asyncio.gather(*(asked(api, text, previous_response_id=first["id"]) for text in ("a", "b")))
    assert len({response["conversation"]["id"] for response in both}) == 2
    for request in provider.requests[1:]:
        users = [content for role, content in shown(request) if role == "user"]
        assert users in (["one", "a"], ["one", "b"])


async def test_what_a_reply_that_failed_was_asked_and_had_said_is_taken_up_again(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    def breaks_off(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("half of")

    first = await asked(api, "one")
    working, provider.script = provider.script, breaks_off
    events = events_of(await ask(api, "two", previous_response_id=first["id"], stream=True))
    broken = events[-1]["response"]
    assert broken["status"] == "failed"
    assert said(broken) == "half of"
    provider.script = working
    third = await asked(api, "go on", previous_response_id=broken["id"])
    assert shown(provider.requests[-1])[2:] == [("user", "two"), ("assistant", "half of"), ("user", "go on")]
    assert third["conversation"] == first["conversation"]
    completed = log.events(third["conversation"]["id"])[-1]
    assert isinstance(completed, ReplyCompleted)
    assert len(completed.input_ids) == 3


async def test_a_previous_response_that_is_not_there_or_still_runs_is_named(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    for unknown in ("resp_1", mint("resp")):
        answer = await ask(api, "x", previous_response_id=unknown)
        assert error_of(answer) == (400, "previous_response_not_found", "previous_response_id")
    both = await ask(api, "x", previous_response_id=mint("resp"), conversation=mint("conv"))
    assert error_of(both) == (400, "mutually_exclusive_parameters", "previous_response_id")
    assert log.count() == 0
    go = threading.Event()

    def waits(exchange: Exchange) -> None:
        go.wait(10)
        exchange.stream_text("done")

    provider.script = waits
    running = await asked(api, "one", background=True)
    assert running["status"] == "queued"
    still = await ask(api, "two", previous_response_id=running["id"])
    assert error_of(still) == (409, "response_in_progress", "previous_response_id")
    assert still.headers["x-should-retry"] == "true"
    go.set()


async def test_a_deleted_response_is_not_gone_on_from_and_its_conversation_keeps_its_items(
    api: httpx.AsyncClient, log: Log
) -> None:
    first = await asked(api, "one")
    deleted = await api.delete(f"/v1/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    answer = await ask(api, "two", previous_response_id=first["id"])
    assert error_of(answer) == (400, "previous_response_not_found", "previous_response_id")
    assert (await api.delete(f"/v1/responses/{first['id']}")).status_code == 404
    assert log.topics(first["conversation"]["id"]).count("item.appended") == 2


async def test_a_response_that_is_not_to_be_stored_leaves_no_event(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await asked(api, "one")
    before = log.count()
    answer = await asked(api, "two", previous_response_id=first["id"], store=False)
    assert said(answer) == "Hello, world!"
    assert answer["conversation"] is None
    assert answer["store"] is False
    streamed = events_of(await ask(api, "three", store=False, stream=True))
    assert streamed[-1]["type"] == "response.completed"
    assert log.count() == before
    assert [content for role, content in shown(provider.requests[1]) if role == "user"] == ["one", "two"]
    for other in ({"background": True}, {"conversation": await create(api)}):
        refused = await ask(api, "x", store=False, **other)
        assert error_of(refused) == (400, "mutually_exclusive_parameters", "store")


async def test_input_tokens_are_those_of_all_that_would_be_sent(api: httpx.AsyncClient, log: Log) -> None:
    async def counted(**body: object) -> int:
        answer = await api.post("/v1/responses/input_tokens", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "response.input_tokens"
        return int(answer.json()["input_tokens"])

    alone = await counted(input="two")
    first = await asked(api, "one")
    before = log.count()
    behind = await counted(input="two", previous_response_id=first["id"])
    instructed = await counted(input="two", instructions="Be brief.")
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    with_tools = await counted(input="two", tools=[tool])
    assert alone < min(behind, instructed, with_tools)
    assert log.count() == before


async def test_a_chain_is_compacted_and_gone_on_from_with_less(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await asked(api, "My name is Ada.")
    before = log.count()
    provider.script = lambda exchange: exchange.stream_text("Ada ", "likes tea.")
    body = {"model": "scripted", "previous_response_id": first["id"], "input": "I like tea."}
    answer = await api.post("/v1/responses/compact", json=body)
    assert answer.status_code == 200, answer.text
    assert log.count() == before
    assert [item["type"] for item in answer.json()["output"]] == ["message", "message", "compaction"]
    assert answer.json()["object"] == "response.compaction"
    assert answer.json()["usage"]["output_tokens"] == 2
    assert "Ada" in provider.requests[-1]["messages"][-1]["content"]
    items = answer.json()["output"]
    await asked(api, [items[-1], {"role": "user", "content": "Who am I?"}])
    [summary, question] = shown(provider.requests[-1])
    assert "Ada likes tea." in summary[1]
    assert question == ("user", "Who am I?")


async def test_what_can_not_be_compacted_is_refused(api: httpx.AsyncClient) -> None:
    for body, error in (
        ({"input": "x"}, (400, "invalid_value", "model")),
        ({"model": "scripted"}, (400, "missing_required_parameter", "input")),
        ({"model": "nobody", "input": "x"}, (400, "model_not_found", "model")),
        ({"model": "scripted", "previous_response_id": mint("resp")}, (400, "previous_response_not_found", "previous_response_id")),
    ):  # fmt: skip
        assert error_of(await api.post("/v1/responses/compact", json=body)) == error
