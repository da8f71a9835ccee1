"""Clients send their whole history as `input`. Only what is new is stored."""

import asyncio
import threading
from typing import Any

import httpx
import pytest

from domain.events import ItemAppended
from infrastructure.ids import mint
from tests.commands.api_client import create_response, error_of, message, post_response, sent_messages
from tests.commands.test_repeated_input import calls, output
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 100_000}


@pytest.fixture(autouse=True)
def _numbered_answers(provider: ScriptedProvider) -> None:
    """The provider answers "answer 1", "answer 2" and so on."""

    def script(exchange: Exchange) -> None:
        exchange.stream_text(f"answer {len(provider.requests)}")

    provider.script = script


def ids(log: Log, *responses: dict[str, Any]) -> list[str]:
    conversations = dict.fromkeys(response["conversation"]["id"] for response in responses)
    return [
        event.item_id
        for conversation in conversations
        for event in log.events(conversation)
        if isinstance(event, ItemAppended)
    ]


async def test_an_input_that_repeats_the_history_stores_only_what_is_new(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    history: list[Any] = [message("one")]
    responses = []
    for number in range(3):
        response = await create_response(api, history)
        responses.append(response)
        # An answer is sent back unchanged, or as most clients write it.
        answer = response["output"] if number else [{"role": "assistant", "content": f"answer {number + 1} "}]
        history += [*answer, message(f"more {number}")]

    assert len({response["conversation"]["id"] for response in responses}) == 1
    assert len(ids(log, *responses)) == 6
    assert sent_messages(provider.requests[-1]) == [
        *(("user", "one"), ("assistant", "answer 1"), ("user", "more 0")),
        *(("assistant", "answer 2"), ("user", "more 1")),
    ]


async def test_an_item_reference_counts_as_the_item_that_it_names(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, [message("one")])
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    second = await create_response(api, [message("one"), reference, message("two")])

    assert second["conversation"] == first["conversation"]
    assert len(ids(log, first, second)) == 4
    unknown = {"type": "item_reference", "id": mint("msg")}
    answer = await post_response(api, [message("one"), unknown, message("two")])
    assert error_of(answer) == (404, "item_not_found", "input[1].id")


async def test_calls_and_leading_system_messages_are_recognised(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    numbered = provider.script
    system = message("Be brief.", "system")
    provider.script = calls("a", "b")
    first = await create_response(api, [system, message("Weather?")])
    provider.script = numbered
    history = [system, message("Weather?"), *first["output"], output("a"), output("b")]
    second = await create_response(api, history)
    other_system = await create_response(api, [message("Be long.", "system"), *history[1:]])

    assert second["conversation"] == first["conversation"]
    assert len(ids(log, first, second)) == 7
    assert other_system["conversation"] != first["conversation"]


async def test_an_input_that_differs_from_the_stored_history_opens_a_branch(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, [message("one")])
    shared = [message("one"), *first["output"]]
    second = await create_response(api, [*shared, message("two")])
    edited = await create_response(api, [*shared, message("edited")])
    regenerated = await create_response(api, [*shared, message("two")])
    after_both = await create_response(api, [*shared, message("edited"), *edited["output"], message("three")])
    after_second = await create_response(api, [*shared, message("two"), *second["output"], message("three")])

    responses = (first, second, edited, regenerated, after_both, after_second)
    assert {response["conversation"]["id"] for response in responses} == {first["conversation"]["id"]}
    assert len(ids(log, first)) == 4 + 2 + 1 + 2 + 2, "an item is missing, or was stored twice on a path"
    texts = [[text for _, text in sent_messages(request)] for request in provider.requests]
    assert texts[3:] == [
        ["one", "answer 1", "two"],
        ["one", "answer 1", "edited", "answer 3", "three"],
        ["one", "answer 1", "two", "answer 2", "three"],
    ]


async def test_an_incomplete_history_or_one_of_another_user_is_not_recognised(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    own = [message("one"), message("of another store", "assistant"), message("two")]
    responses = [await create_response(api, own) for _ in range(2)]
    first = responses[0]
    history = [message("one"), message("of another store", "assistant"), message("two"), *first["output"]]
    responses.append(await create_response(api, [*history, message("three")], user="somebody"))
    responses.append(await create_response(api, [*history[2:], message("three")]))

    assert len({response["conversation"]["id"] for response in responses}) == 4
    unstored = await create_response(api, [*history, message("three")], store=False)
    assert unstored.get("conversation") is None
    named = await create_response(api, [message("three")], previous_response_id=first["id"])
    assert named["conversation"] == first["conversation"]


async def test_two_equal_requests_at_once_get_two_conversations(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, [message("one")])
    history = [message("one"), *first["output"], message("two")]
    both_asked = threading.Barrier(2, timeout=10)

    def script(exchange: Exchange) -> None:
        both_asked.wait()
        exchange.stream_text("at once")

    provider.script = script

    both = await asyncio.gather(*(create_response(api, history) for _ in range(2)))

    assert len({response["conversation"]["id"] for response in both}) == 2
    assert first["conversation"] in [response["conversation"] for response in both]
    assert all(len(request["messages"]) == 3 for request in provider.requests[1:])


async def test_a_history_whose_conversation_was_deleted_begins_a_new_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, [message("one")])
    history = [message("one"), *first["output"], message("two")]
    path = f"/v1/conversations/{first['conversation']['id']}"
    assert (await api.delete(path)).status_code == 200

    without_ids = [{**item, "id": None} if "id" in item else item for item in history]
    repeated = await create_response(api, without_ids)

    assert repeated["conversation"] != first["conversation"]
    assert len(ids(log, repeated)) == 4


async def test_an_input_that_lacks_the_first_messages_begins_a_new_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    """A chat completion continues the conversation. A response does not, because the model would be shown the whole
    path.
    """
    chat: list[Any] = []
    for number in range(3):
        chat.append(message(f"question {number}"))
        answer = await api.post("/v1/chat/completions", json={"model": "scripted", "messages": chat})
        chat.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
    conversation = answer.headers["x-conversation-id"]
    cut = [*chat[2:], message("after the cut")]
    answer = await api.post("/v1/chat/completions", json={"model": "scripted", "messages": cut})
    assert answer.headers["x-conversation-id"] == conversation
    cut.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})

    of_cut = await create_response(api, [*cut, message("more")])
    of_all = await create_response(api, [*chat, message("more")])

    assert of_cut["conversation"]["id"] != conversation
    assert len(sent_messages(provider.requests[-2])) == 7
    assert len(sent_messages(provider.requests[-1])) == 7
    assert of_all["conversation"]["id"] == conversation, "the whole history did not continue its conversation"


async def test_the_history_of_an_ended_conversation_continues_in_a_fork(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, [message("one")])
    await api.post(f"/v1/conversations/{first['conversation']['id']}/end", json={})

    second = await create_response(api, [message("one"), *first["output"], message("two")])

    assert second["conversation"] != first["conversation"]
    assert len(ids(log, second)) == 2


@pytest.mark.parametrize("own", [{"instructions": "Be rude."}, {"context_policy": {"budget": 300}}])
async def test_a_conversation_with_its_own_instructions_or_policy_is_not_continued(
    api: httpx.AsyncClient, provider: ScriptedProvider, own: dict[str, Any]
) -> None:
    history: list[Any] = [message("one")]
    first = await create_response(api, history)
    changed = await api.post(f"/v1/conversations/{first['conversation']['id']}", json=own)
    assert changed.status_code == 200, changed.text
    responses = [first]
    for word in ("two", "three"):
        history += [*responses[-1]["output"], message(word)]
        responses.append(await create_response(api, history))

    assert sent_messages(provider.requests[-1]) == [
        *(("user", "one"), ("assistant", "answer 1"), ("user", "two"), ("assistant", "answer 2"), ("user", "three")),
    ]
    assert responses[1]["conversation"] != first["conversation"]
    assert responses[2]["conversation"] == responses[1]["conversation"]
