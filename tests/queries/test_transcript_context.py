"""GET /v1/responses/{id}/context of a Chat Completions request: the messages as the client sent them.

scripts/test tests/queries/test_transcript_context.py -m endless     runs two hundred chats
"""

import base64
import hashlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import msgspec
import pytest

from commands.main import create_app
from context.rendering import request_sha256
from domain.commands import DeleteReply
from domain.content_references import inline_reference
from domain.events import ReplyRequested
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.log import Log
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api
from tests.queries.writer import Writer
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

MANY_CHATS, FEW_CHATS = 200, 3
STEPS = 12
SEED = 11
WORDS = ("tea", "Grüße", "雪が降る", "🙂", "rain", "\n", " ", "wörld", "<|endoftext|>", "</think>", "and so on")
IMAGE_DATA = "iVBORw0KGgo="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE_DATA}", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

Json = dict[str, Any]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(params=["chat"])
async def store(
    settings: Settings, provider: ScriptedProvider, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    changed = {"openai_base_url": provider.url, "default_model": "scripted", "model_api": request.param}
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            yield client


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


def user(content: Any, **fields: Any) -> Json:
    return {"role": "user", "content": content, **fields}


async def complete(store: httpx.AsyncClient, messages: list[Json], **fields: Any) -> httpx.Response:
    answer = await store.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    return answer


async def context_of(api: httpx.AsyncClient, completion: httpx.Response) -> Json:
    answer = await api.get(f"/v1/responses/{completion.headers['x-response-id']}/context")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def with_file_ids(received: Json) -> Json:
    """The store shows the id of the image in place of its data."""
    data = base64.b64decode(IMAGE_DATA)
    reference = inline_reference("default", hashlib.sha256(data).digest(), len(data), "image/png")
    shown: Json = json.loads(json.dumps(received).replace(f"data:image/png;base64,{IMAGE_DATA}", reference.file_id))
    return shown


class Chat:
    """A chat whose client changes earlier messages when it sends them again."""

    def __init__(self, seed: int, store: httpx.AsyncClient, provider: ScriptedProvider) -> None:
        self._random = random.Random(seed)
        self._store = store
        self._provider = provider
        self.messages: list[Json] = []
        self.sent: list[tuple[httpx.Response, list[Json]]] = []
        """Each answer, with the messages of its request."""
        provider.script = self._answer

    async def run(self) -> None:
        for _ in range(STEPS):
            self._change()
            system = {"role": "system", "content": self._text()}
            messages = [system, *self.messages, *self._outputs(), self._question()]
            completion = await complete(self._store, messages, tools=[TOOL], top_k=5)
            self.sent.append((completion, messages))
            self.messages = [*messages[1:], completion.json()["choices"][0]["message"]]

    def _change(self) -> None:
        match self._random.choice(("", "", "cut", "edit", "rewrite", "habits", "habits")):
            case "cut":
                del self.messages[: self._random.randint(0, len(self.messages))]
            case "edit":
                del self.messages[self._random.randint(0, len(self.messages)) :]
            case "rewrite" if self.messages:
                index = self._random.randrange(len(self.messages))
                self.messages[index] = {**self.messages[index], "content": self._text()}
            case "habits":
                self.messages = [self._as_sent_again(message) for message in self.messages]
            case _:
                pass
        while self.messages and self.messages[0]["role"] == "tool":
            del self.messages[0]
        while self.messages and self.messages[-1]["role"] == "tool":
            del self.messages[-1]

    def _as_sent_again(self, message: Json) -> Json:
        content = message.get("content")
        match self._random.choice(("", "", "nulls", "no nulls", "parts", "trimmed", "extra")):
            case "nulls":
                return {**message, "refusal": None, "audio": None}
            case "no nulls":
                return {name: value for name, value in message.items() if value is not None}
            case "parts" if isinstance(content, str) and content:
                return {**message, "content": [{"type": "text", "text": content}]}
            case "trimmed" if isinstance(content, str):
                return {**message, "content": content.strip()}
            case "extra":
                return {**message, "x_extra": [1.0, 2, None]}
            case _:
                return message

    def _outputs(self) -> list[Json]:
        calls = self.messages[-1].get("tool_calls") or () if self.messages else ()
        return [{"role": "tool", "tool_call_id": call["id"], "content": self._text()} for call in calls]

    def _question(self) -> Json:
        content = self._random.choice((self._text(), [{"type": "text", "text": self._text()}, IMAGE]))
        return user(content, **self._random.choice(({}, {"name": "ann"})))

    def _answer(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        for number in range(self._random.randint(1, 4)):
            call: Json = {"index": number, "id": f"call_{self._random.random()}", "type": "function"}
            call["function"] = {"name": "look", "arguments": '{"a": 1}'}
            delta: Json = self._random.choice(
                ({"content": self._text()}, {"reasoning_content": self._text()}, {"tool_calls": [call]})
            )
            exchange.delta(**delta)
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    def _text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, 12))) + "."


@pytest.mark.parametrize("chats", [FEW_CHATS, pytest.param(MANY_CHATS, marks=pytest.mark.endless)])
async def test_each_request_of_a_random_chat_is_rendered_as_received(
    chats: int, settings: Settings, store: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    async with open_api(settings) as api:
        for number in range(chats):
            provider.requests.clear()
            chat = Chat(SEED + number, store, provider)
            await chat.run()
            for (completion, messages), received in zip(chat.sent, provider.requests, strict=True):
                body = await context_of(api, completion)
                assert request_sha256(body["request"]) == request_sha256(with_file_ids(received))
                assert request_sha256({"messages": messages}) == request_sha256({"messages": received["messages"]})
                assert received["top_k"] == 5
                assert body["request_sha256_matches"] is True
                assert body["left_out"] == []
                assert body["summary"] is None
                [event] = (
                    event
                    for event in log.events(completion.headers["x-conversation-id"])
                    if isinstance(event, ReplyRequested) and event.response_id == completion.headers["x-response-id"]
                )
                assert event.shown.request_sha256 == request_sha256(received)
                assert (body["tokens"], body["version"]) == (event.shown.tokens, event.shown.version)
                assert event.shown.ranges == ()


@pytest.mark.parametrize("store", ["responses"], indirect=True)
async def test_for_a_responses_provider_the_request_is_rendered_as_items(
    settings: Settings, store: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    def answer(exchange: Exchange) -> None:
        content = [{"type": "output_text", "text": "Hello.", "annotations": []}]
        exchange.stream_items({"type": "message", "id": "msg_1", "role": "assistant", "content": content})

    provider.script = answer
    messages = [{"role": "system", "content": "Be kind."}, user("Hi.")]
    first = await complete(store, messages, max_tokens=50)
    messages += [first.json()["choices"][0]["message"], user("And now?")]
    second = await complete(store, messages, max_tokens=50)
    async with open_api(settings) as api:
        for completion, received in zip((first, second), provider.requests, strict=True):
            body = await context_of(api, completion)
            assert body["request"] == received
            assert body["request_sha256_matches"] is True
    assert [item["role"] for item in provider.requests[1]["input"]] == ["system", "user", "assistant", "user"]
    assert provider.requests[1]["max_output_tokens"] == 50


async def test_a_record_does_not_grow_with_the_transcript(
    settings: Settings, store: httpx.AsyncClient, log: Log
) -> None:
    messages: list[Json] = []
    for number in range(20):
        messages.append(user(f"question {number} " + "word " * 50))
        completion = await complete(store, messages)
        messages.append(completion.json()["choices"][0]["message"])
    events = log.events(completion.headers["x-conversation-id"])
    requests = [event for event in events if isinstance(event, ReplyRequested)]
    sizes = [len(msgspec.json.encode(event)) for event in requests]
    assert len(sizes) == 20
    assert max(sizes[2:]) - min(sizes[2:]) < 10
    async with open_api(settings) as api:
        body = await context_of(api, completion)
    assert body["request"]["messages"] == messages[:-1]
    assert [item["item"]["role"] for item in body["items"]] == ["user", "assistant"] * 19 + ["user"]
    assert sum(item["tokens"] for item in body["items"]) == body["tokens"]


async def test_deleted_content_is_blanked_for_callers_without_audit(
    settings: Settings, store: httpx.AsyncClient, write: Writer
) -> None:
    messages = [{"role": "system", "content": "stays"}, user("a xylophone", name="ann")]
    first = await complete(store, messages)
    messages += [first.json()["choices"][0]["message"], user("a question")]
    messages[1] = user("a xylophone", name="xylophone player")
    second = await complete(store, messages)
    conversation_id, response_id = second.headers["x-conversation-id"], second.headers["x-response-id"]
    assert conversation_id == first.headers["x-conversation-id"]
    path = f"/v1/responses/{response_id}/context"
    owner, auditor = headers_of("anonymous"), headers_of("anonymous", "audit")
    async with open_api(settings, authenticator=HeaderAuthenticator()) as api:
        full = (await api.get(path, headers=owner)).json()
        assert full["request"]["messages"] == messages
        assert full["request_sha256_matches"] is True
        told = full["items"][0]
        assert told["item"]["content"][0]["text"] == "a xylophone"
        await write.retract(conversation_id, told["id"])

        blanked = (await api.get(path, headers=owner)).json()
        assert "xylophone" not in str(blanked)
        assert blanked["request_sha256_matches"] is None
        assert blanked["blanked"] == ["items[0].item", "request"]
        assert blanked["items"][0]["item"]["blanked"] is True
        assert blanked["request"]["messages"] == [messages[0], user(""), *messages[2:]]
        events = (await api.get(f"/v1/conversations/{conversation_id}/events?limit=1000", headers=owner)).json()
        assert "xylophone" not in str(events)
        assert (await api.get(path, headers=auditor)).json() == full

        await write.execute(conversation_id, DeleteReply(response_id=response_id))
        assert (await api.get(path, headers=owner)).status_code == 404
        assert (await api.get(path, headers=auditor)).json() == full
