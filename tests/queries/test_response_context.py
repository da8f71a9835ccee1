"""GET /v1/responses/{id}/context renders each request exactly as the provider received it, except deleted content.

scripts/test tests/queries/test_response_context.py -m endless     runs five hundred histories
"""

import random
from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import msgspec
import pytest

from commands.main import create_app
from context.path_backwards import PAGE_EVENTS
from context.rendering import request_sha256
from context.summary_changes import PAGE_CHANGES
from domain.commands import DeleteReply, DescribeConversation
from domain.events import Fork, ReplyRequested
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.log import Log
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api
from tests.queries.writer import Writer
from tests.scripted_provider import ScriptedProvider, scripted_provider

MANY_HISTORIES = 500
FEW_HISTORIES = 8
SEED = 7
BUDGET = 400
WORDS = ("tea", "Grüße", "雪が降る", "🙂", "rain", "\n", "wörld", "مرحبا", "<|endoftext|>", "and so on")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    changed = {"openai_base_url": provider.url, "model_window": 2_000, "default_model": "scripted"}
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            yield client


async def response_context(api: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/responses/{response_id}/context")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


class History:
    """Sends random requests for one conversation and its forks."""

    def __init__(self, seed: int, store: httpx.AsyncClient) -> None:
        self._random = random.Random(seed)
        self._store = store
        self._ids: list[str] = []
        self.conversation_id = ""
        self.responses: list[str] = []
        self.fork_responses: list[str] = []

    async def run(self, steps: int = 14) -> None:
        policy = {
            "budget": BUDGET,
            "strategy": self._random.choice(("newest_turns", "rolling_summary")),
            "window": self._random.choice(("stable", "newest")),
            "refill": self._random.choice((0.1, 0.6, 0.9)),
        }
        started = await self._post("", instructions=self._text(), context_policy=policy)
        self.conversation_id = started.json()["id"]
        actions = (
            self._append,
            self._append,
            self._request_reply,
            self._request_reply,
            self._pin,
            self._retract,
            self._compact,
            self._undo,
            self._describe,
            self._continue,
            self._regenerate,
            self._move_head,
            self._fork,
        )
        await self._append()
        await self._request_reply()
        for _ in range(steps):
            await self._random.choice(actions)()

    async def _append(self) -> None:
        call = {"type": "function_call", "call_id": mint("call"), "name": "look", "arguments": self._text()}
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": self._text()}
        without_call = {**output, "call_id": "nobody"}
        reasoning = {"type": "reasoning", "summary": []}
        items = [self._message("user"), call, output, self._message("assistant")]
        for item in (without_call, reasoning, call):
            if self._random.random() < 0.2:
                items.insert(self._random.randrange(1, 4), item)
        answer = await self._post("/items", items=(items * self._random.randint(1, 3))[:20])
        self._ids += [item["id"] for item in answer.json()["data"]]

    async def _request_reply(self) -> None:
        request: dict[str, Any] = {"input": self._text(), "conversation": self.conversation_id}
        if self._random.random() < 0.5:
            request |= {"instructions": self._text(), "temperature": 0.5, "max_output_tokens": 50}
        answer = await self._store.post("/v1/responses", json=request)
        if answer.status_code == 200:
            self.responses.append(answer.json()["id"])
        else:
            assert answer.json()["error"]["code"] == "context_length_exceeded"

    async def _continue(self) -> None:
        await self._request_beside(input=self._text(), previous_response_id=self._any_response())

    async def _regenerate(self) -> None:
        await self._request_beside(regenerate=self._any_response())

    async def _request_beside(self, **request: Any) -> None:
        answer = await self._store.post("/v1/responses", json=request)
        if answer.status_code == 200:
            response = answer.json()
            is_in_fork = response["conversation"]["id"] != self.conversation_id
            (self.fork_responses if is_in_fork else self.responses).append(response["id"])
        else:
            assert answer.json()["error"]["code"] in ("context_length_exceeded", "item_not_found", "not_found")

    def _any_response(self) -> str:
        return self._random.choice([*self.responses, *self.fork_responses])

    async def _move_head(self) -> None:
        await self._post("/head", item=self._random.choice(self._ids))

    async def _fork(self) -> None:
        forked = await self._post("/fork", item=self._random.choice(self._ids))
        if forked.status_code == 200:
            await self._request_beside(input=self._text(), conversation=forked.json()["id"])

    async def _pin(self) -> None:
        await self._post(f"/items/{self._random.choice(self._ids)}/{self._random.choice(('pin', 'pin', 'unpin'))}")

    async def _retract(self) -> None:
        await self._store.delete(f"/v1/conversations/{self.conversation_id}/items/{self._random.choice(self._ids)}")

    async def _compact(self) -> None:
        await self._post("/compact")

    async def _undo(self) -> None:
        await self._post(f"/compact/{self._random.choice(('undo', 'redo'))}")

    async def _describe(self) -> None:
        await self._post("", instructions=self._random.choice((None, self._text())))

    async def _post(self, path: str, **body: Any) -> httpx.Response:
        resource = f"/{self.conversation_id}" if self.conversation_id else ""
        answer = await self._store.post(f"/v1/conversations{resource}{path}", json=body or None)
        assert answer.status_code < 500, answer.text
        return answer

    def _message(self, role: str) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": self._text()}

    def _text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, 20))) + "."


@pytest.mark.parametrize("histories", [FEW_HISTORIES, pytest.param(MANY_HISTORIES, marks=pytest.mark.endless)])
async def test_after_any_history_each_request_is_rendered_as_the_provider_received_it(
    histories: int, settings: Settings, store: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    summarized = 0
    async with open_api(settings) as api:
        for number in range(histories):
            provider.requests.clear()
            history = History(SEED + number, store)
            await history.run()
            sent = {request_sha256(body) for body in provider.requests}
            recorded = [event for event in log.events(history.conversation_id) if isinstance(event, ReplyRequested)]
            assert [event.response_id for event in recorded] == history.responses
            for event in recorded:
                body = await response_context(api, event.response_id)
                assert body["request"] in provider.requests
                assert request_sha256(body["request"]) == event.shown.request_sha256
                assert event.shown.request_sha256 in sent
                assert body["request_sha256_matches"] is True
                assert body["tokens"] == event.shown.tokens <= BUDGET
                assert [part.reason for part in event.shown.left_out] == [part["reason"] for part in body["left_out"]]
                summarized += body["summary"] is not None
            for response_id in history.fork_responses:
                body = await response_context(api, response_id)
                assert body["request"] in provider.requests
                assert body["request_sha256_matches"] is True
    assert summarized


async def test_a_rendered_request_that_differs_from_the_recorded_one_is_reported(
    store: httpx.AsyncClient, settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start("a")
    response_id, _ = await write.request_reply(conversation_id, "b")
    async with open_api(settings) as api:
        body = await response_context(api, response_id)
    assert (body["object"], body["request_sha256_matches"]) == ("response.context", False)
    assert [item["item"]["content"][0]["text"] for item in body["items"]] == ["b"]


async def test_unknown_and_deleted_responses_are_not_found_without_audit(
    api_with_principals: httpx.AsyncClient, write: Writer
) -> None:
    first_conversation, second_conversation = await write.start("a"), await write.start("b")
    (first, input_items), (second, _) = (
        await write.request_reply(first_conversation, "x"),
        await write.request_reply(second_conversation, "y"),
    )
    await write.complete_reply(first_conversation, first, input_items, "answer")
    await write.execute(first_conversation, DeleteReply(response_id=first))
    await write.delete(second_conversation)
    for response_id in (first, second, mint("resp")):
        answer = await api_with_principals.get(f"/v1/responses/{response_id}/context", headers=headers_of("someone"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_an_item_retracted_before_the_request_is_not_rendered(
    store: httpx.AsyncClient, settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start("one")
    ids = await write.append(conversation_id, "two", "three")
    for number in range(PAGE_EVENTS + 1):
        await write.execute(conversation_id, DescribeConversation(title=str(number)))
    await write.retract(conversation_id, ids[0])
    answer = await store.post("/v1/responses", json={"input": "hi", "conversation": conversation_id})
    await write.retract(conversation_id, ids[1])
    async with open_api(settings) as api:
        body = await response_context(api, answer.json()["id"])
    assert body["request_sha256_matches"]
    assert [message["content"] for message in body["request"]["messages"]] == ["one", "three", "hi"]


async def test_a_request_in_a_fork_is_rendered_as_sent_although_the_origin_changed(
    store: httpx.AsyncClient, settings: Settings, write: Writer, provider: ScriptedProvider
) -> None:
    origin = await write.start("one")
    ids = await write.append(origin, *(f"origin {n}" for n in range(6)))
    await write.retract(origin, ids[1])
    fork = Fork(conversation_id=origin, item_id=ids[4], version=9, depth=6)
    conversation_id = await write.start("own", forked_from=fork)
    answer = await store.post("/v1/responses", json={"input": "hi", "conversation": conversation_id})
    assert answer.status_code == 200, answer.text
    await write.retract(origin, ids[2])
    await write.delete(origin)
    async with open_api(settings) as api:
        body = await response_context(api, answer.json()["id"])
    assert body["request_sha256_matches"]
    contents = [message["content"] for message in body["request"]["messages"]]
    assert contents == ["one", "origin 0", "origin 2", "origin 3", "origin 4", "own", "hi"]


async def test_the_recorded_request_does_not_grow_with_the_conversation(
    store: httpx.AsyncClient, write: Writer, log: Log
) -> None:
    sizes: list[int] = []
    for items in (60, 600):
        conversation_id = await write.start(*["some words"] * items)
        answer = await store.post("/v1/responses", json={"input": "hi", "conversation": conversation_id})
        assert answer.status_code == 200, answer.text
        [event] = [event for event in log.events(conversation_id) if isinstance(event, ReplyRequested)]
        sizes.append(len(msgspec.json.encode(event)))
    assert abs(sizes[1] - sizes[0]) < 100


async def test_a_summary_is_found_after_many_undos_and_redos(
    store: httpx.AsyncClient, api: httpx.AsyncClient, write: Writer
) -> None:
    conversation_id = await write.start("stays")
    [told] = await write.append(conversation_id, "told")
    summary = (await write.compact(conversation_id, told, 2, "They told.")).version
    for _ in range(PAGE_CHANGES):
        await write.undo(conversation_id, summary)
        await write.redo(conversation_id, summary)
    answer = await store.post("/v1/responses", json={"input": "a question", "conversation": conversation_id})

    rendered = await response_context(api, answer.json()["id"])

    assert rendered["summary"]["text"] == "They told."
    assert rendered["request_sha256_matches"] is True


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@pytest.fixture
async def api_with_principals(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, authenticator=HeaderAuthenticator()) as client:
        yield client


async def test_deleted_content_is_blanked_for_callers_without_audit(
    store: httpx.AsyncClient, api_with_principals: httpx.AsyncClient, write: Writer
) -> None:
    api = api_with_principals
    owner, auditor, stranger = headers_of("someone"), headers_of("someone", "audit"), headers_of("eve", "audit")
    conversation_id = await write.start("stays")
    [told] = await write.append(conversation_id, "told")
    await write.compact(conversation_id, told, 2, "They told xylophone.")
    [item_id] = await write.append(conversation_id, "a xylophone")
    answer = await store.post("/v1/responses", json={"input": "a question", "conversation": conversation_id})
    assert answer.status_code == 200, answer.text
    path = f"/v1/responses/{answer.json()['id']}/context"

    full = (await api.get(path, headers=owner)).json()
    assert full["request_sha256_matches"] is True
    assert "blanked" not in full
    await write.retract(conversation_id, item_id)
    await write.retract(conversation_id, told)

    blanked = (await api.get(path, headers=owner)).json()
    assert "xylophone" not in str(blanked)
    assert blanked["request_sha256_matches"] is None
    assert blanked["blanked"] == ["items[0].item", "summary.text", "request"]
    assert blanked["items"][0]["item"] == {
        "id": item_id,
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [],
        "blanked": True,
    }
    assert [message["role"] for message in blanked["request"]["messages"]] == [
        message["role"] for message in full["request"]["messages"]
    ]
    assert {name: blanked[name] for name in ("version", "tokens", "budget")} == {
        name: full[name] for name in ("version", "tokens", "budget")
    }
    assert (await api.get(path, headers=auditor)).json() == full
    assert (await api.get(path, headers=stranger)).status_code == 404

    await write.execute(conversation_id, DeleteReply(response_id=answer.json()["id"]))
    assert (await api.get(path, headers=owner)).status_code == 404
    assert (await api.get(path, headers=auditor)).json() == full
    await write.delete(conversation_id)
    assert (await api.get(path, headers=auditor)).json() == full
    assert (await api.get(path, headers=headers_of("root", "admin", "audit"))).json() == full
    for nobody in (owner, stranger, headers_of("root", "admin"), headers_of("someone", "audit", tenant="other")):
        assert (await api.get(path, headers=nobody)).status_code == 404
