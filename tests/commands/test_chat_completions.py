"""POST /v1/chat/completions: which conversation a transcript continues, what is stored, and what the model is sent."""

import asyncio
from typing import Any

import httpx
import pytest

from domain.events import ItemAppended
from domain.items import from_stored, text_of
from infrastructure.settings import Settings
from tests.commands.api_client import open_api
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_timeout": 5, "model_window": 2_000}

Json = dict[str, Any]
SYSTEM: Json = {"role": "system", "content": "Be brief. Today is Monday."}


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


@pytest.fixture(autouse=True)
def answers(provider: ScriptedProvider) -> None:
    """The model answers with the number of the request."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for word in ("answer ", str(len(exchange.provider.requests))):
            exchange.text_chunk(word)
        exchange.text_chunk(finish_reason="stop")
        exchange.chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
        exchange.end_stream()

    provider.script = script


async def complete(
    api: httpx.AsyncClient, messages: list[Json], name: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {} if name is None else {"x-conversation-id": name}
    answer = await api.post(
        "/v1/chat/completions", json={"model": "scripted", "messages": messages, **fields}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer


async def continued(api: httpx.AsyncClient, messages: list[Json], text: str, **fields: Any) -> tuple[list[Json], str]:
    """Asks `text`. Returns the transcript and the conversation's id."""
    messages = [*messages, user(text)]
    answer = await complete(api, messages, **fields)
    return [*messages, answer.json()["choices"][0]["message"]], answer.headers["x-conversation-id"]


def texts(log: Log, conversation_id: str) -> list[str]:
    return [
        text_of(from_stored(event.item)) for event in log.events(conversation_id) if isinstance(event, ItemAppended)
    ]


async def test_a_transcript_continues_its_conversation_and_each_message_is_stored_once(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    messages, first = await continued(api, [SYSTEM], "one")
    messages, second = await continued(api, [{**SYSTEM, "content": "Today is Tuesday."}, *messages[1:]], "two")
    messages, third = await continued(api, messages, "three")
    assert first == second == third
    assert texts(log, first) == ["one", "answer 1", "two", "answer 2", "three", "answer 3"]
    assert provider.requests[-1]["messages"] == messages[:-1]
    listed = [event.listed for event in log.events(first) if hasattr(event, "listed")]
    assert listed == [False, True]


async def test_a_transcript_of_one_message_begins_a_new_conversation_each_time(api: httpx.AsyncClient) -> None:
    _, first = await continued(api, [], "hi")
    _, second = await continued(api, [], "hi")
    assert first != second


async def test_a_transcript_without_its_first_messages_continues_its_conversation(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    messages: list[Json] = []
    for text in ("one", "two", "three"):
        messages, first = await continued(api, messages, text)
    rest, same = await continued(api, messages[2:], "four")
    assert same == first
    assert texts(log, first)[-2:] == ["four", "answer 4"]
    assert provider.requests[-1]["messages"] == rest[:-1]


async def test_concurrent_requests_with_one_prefix_are_all_answered(apis: list[httpx.AsyncClient], log: Log) -> None:
    messages, first = await continued(apis[0], [], "one")
    answers = await asyncio.gather(*(continued(apis[n % 2], messages, f"at once {n}") for n in range(4)))
    conversations = {conversation_id for _, conversation_id in answers}
    assert first in conversations
    stored = [text for conversation_id in conversations for text in texts(log, conversation_id)]
    assert {text for text in stored if text.startswith("at once")} == {f"at once {n}" for n in range(4)}
    assert len(stored) == 10


async def test_a_transcript_goes_to_the_conversation_that_the_client_names(api: httpx.AsyncClient, log: Log) -> None:
    first, second = await complete(api, [user("hi")], "chat 1"), await complete(api, [user("hi")], "chat 2")
    ids = [answer.headers["x-conversation-id"] for answer in (first, second)]
    assert ids[0] != ids[1]
    unrelated = await complete(api, [user("something else")], "chat 1")
    assert unrelated.headers["x-conversation-id"] == ids[0]
    assert texts(log, ids[0])[2:] == ["something else", "answer 3"]
    for bad in ("", "x" * 257, "x" * 10_000):
        answer = await api.post(
            "/v1/chat/completions", json={"messages": [user("hi")]}, headers={"x-conversation-id": bad}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "X-Conversation-Id"


async def test_a_request_that_names_its_conversation_twice_is_refused(api: httpx.AsyncClient) -> None:
    named = (await complete(api, [user("hi")], "chat 1")).headers["x-conversation-id"]
    for names, fields in ((["chat 1", "chat 2"], {}), (["chat 1"], {"conversation": named})):
        body = {"messages": [user("hi")], **fields}
        headers = [("x-conversation-id", name) for name in names]
        answer = await api.post("/v1/chat/completions", json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Conversation-Id")


async def test_log_probabilities_are_requested_but_not_stored(
    settings: Settings, provider: ScriptedProvider, log: Log
) -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    citation = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "", "url": "https://x"}

    def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/responses"):
            part = {"type": "output_text", "text": "Hi", "annotations": [citation], "logprobs": [token]}
            exchange.stream_items({"id": "msg_1", "type": "message", "role": "assistant", "content": [part]})
        else:
            exchange.begin_stream()
            exchange.text_chunk("Hi", logprobs={"content": [token]}, finish_reason="stop")
            exchange.end_stream()

    provider.script = script
    sent = {
        "chat": {"logprobs": True, "top_logprobs": 2},
        "responses": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    }
    for provider_api, expected in sent.items():
        changed = {"openai_base_url": provider.url, "model_api": provider_api, **WITH_PROVIDER}
        async with open_api(settings.model_copy(update=changed)) as api:
            answer = await complete(api, [user("hi")], logprobs=True, top_logprobs=2)
        names = ("logprobs", "include", "top_logprobs")
        assert {name: provider.requests[-1][name] for name in names if name in provider.requests[-1]} == expected
        choice = answer.json()["choices"][0]
        assert (choice["message"]["content"], choice["logprobs"]) == ("Hi", None)
        [_, item] = [
            from_stored(event.item)
            for event in log.events(answer.headers["x-conversation-id"])
            if isinstance(event, ItemAppended)
        ]
        assert "logprobs" not in str(item)


async def test_a_completion_is_stored_if_setting_and_request_allow_it(
    settings: Settings, provider: ScriptedProvider, log: Log
) -> None:
    expected = {
        ("always", None): 1,
        ("always", False): 0,
        ("requested", None): 0,
        ("requested", True): 1,
        ("never", True): 0,
    }
    for (policy, store), count in expected.items():
        changed = {"openai_base_url": provider.url, "chat_completions_store": policy, **WITH_PROVIDER}
        before = log.rows("SELECT count(*) FROM responses")[0][0]
        async with open_api(settings.model_copy(update=changed)) as api:
            answer = await complete(api, [user("hi")], store=store)
        assert log.rows("SELECT count(*) FROM responses")[0][0] - before == count
        assert ("x-conversation-id" in answer.headers) == bool(count)


async def test_a_long_new_history_is_stored_and_the_next_request_continues_it(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    history = [message for n in range(700) for message in (user(f"question {n}"), assistant(f"reply {n}"))]
    messages, conversation_id = await continued(api, history, "now")
    assert texts(log, conversation_id) == [message["content"] for message in messages]
    assert provider.requests[-1]["messages"] == messages[:-1]
    messages, same = await continued(api, messages, "again")
    assert same == conversation_id
    assert len(texts(log, conversation_id)) == 1_404


async def test_a_long_history_whose_reply_cannot_be_requested_is_not_kept(api: httpx.AsyncClient, log: Log) -> None:
    history = [message for n in range(600) for message in (user(f"question {n}"), assistant(f"reply {n}"))]
    body = {"model": "scripted", "messages": [*history, user("now")]}
    answer = await api.post("/v1/chat/completions", json=body, headers={"if-match": '"999"'})
    assert answer.status_code == 412, answer.text
    [(conversation_id, last)] = log.rows(
        "SELECT DISTINCT ON (originator_id) originator_id, topic FROM events ORDER BY originator_id, originator_version DESC"
    )
    assert (bool(conversation_id), last) == (True, "conversation.deleted")
    assert log.rows("SELECT count(*) FROM transcript_prefixes") == [(0,)]


async def test_a_repeated_request_stores_the_rest_of_a_half_stored_history(api: httpx.AsyncClient, log: Log) -> None:
    """One request is cancelled, as if its process were killed."""

    def stored() -> int:
        return int(log.rows("SELECT count(*) FROM events WHERE topic = 'item.appended'")[0][0])

    messages, _ = await continued(api, [], "hi")
    before = stored()
    messages += [message for n in range(1_250) for message in (user(f"question {n}"), assistant(f"reply {n}"))]
    cut_off = asyncio.create_task(complete(api, [*messages, user("now")]))
    while stored() < before + 300:  # noqa: ASYNC110 - only the log shows it
        await asyncio.sleep(0.001)
    cut_off.cancel()
    await asyncio.wait([cut_off])
    assert before + 300 <= stored() < before + 2_500

    await continued(api, messages, "now")
    assert stored() == before + 2_502


async def test_equal_requests_with_one_idempotency_key_keep_one_history(
    apis: list[httpx.AsyncClient], log: Log
) -> None:
    body = {"model": "scripted", "messages": [user(f"question {n}") for n in range(1_001)]}
    answers = await asyncio.gather(
        *(apis[n % 2].post("/v1/chat/completions", json=body, headers={"idempotency-key": "a"}) for n in range(3))
    )
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.headers["x-conversation-id"] for answer in answers}) == 1
    deleted = "bool_or(topic = 'conversation.deleted')"
    kept = log.rows(f"SELECT FROM events GROUP BY originator_id HAVING count(*) > 1000 AND NOT {deleted}")
    assert len(kept) == 1
