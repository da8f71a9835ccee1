"""GET /v1/responses/{id}/context for chains of replies, with branches and failed replies.

scripts/test tests/queries/test_response_context_of_chains.py -m endless     runs a hundred histories
"""

import random
from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import msgspec
import pytest

from commands.main import create_app
from context.rendering import request_sha256
from context.tokens import count
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.queries.conftest import open_api
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

WORDS = ("tea", "Grüße", "雪が降る", "🙂", "rain", "\n", "and so on")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(params=["chat", "responses"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["gpt-4", "gpt-4o"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(
    settings: Settings, provider: ScriptedProvider, api: str, model: str
) -> AsyncIterator[httpx.AsyncClient]:
    changed = {
        "openai_base_url": provider.url,
        "model_window": 700,
        "default_model": model,
        "model_api": api,
    }
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            yield client


class RandomChains:
    """Sends random requests for chains of replies. About one reply in seven fails."""

    def __init__(self, seed: int, store: httpx.AsyncClient, provider: ScriptedProvider, api: str) -> None:
        self.random = random.Random(seed)
        self._store = store
        self._provider = provider
        self._api = api
        self.responses: list[str] = []
        self.failed = 0
        self.conversations: list[str] = []
        provider.script = self._script

    def _script(self, exchange: Exchange) -> None:
        if self.random.random() < 0.15:
            exchange.begin_stream()
            if self._api == "chat":
                exchange.text_chunk("half of")
            return
        text = self._text()
        calls = self.random.random() < 0.2
        if self._api == "chat":
            exchange.begin_stream()
            exchange.text_chunk(text)
            if calls:
                exchange.delta(
                    tool_calls=[{"index": 0, "id": mint("call"), "function": {"name": "f", "arguments": "{}"}}]
                )
            exchange.text_chunk(finish_reason="stop")
            exchange.end_stream()
            return
        items: list[dict[str, Any]] = [
            {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
            {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]},
        ]
        if calls:
            items.append(
                {"id": "fc_1", "type": "function_call", "call_id": mint("call"), "name": "f", "arguments": "{}"}
            )
        exchange.stream_items(*items)

    async def run(self) -> None:
        actions = (
            *[self._request_reply] * 3,
            *[self._continue] * 4,
            *[self._change] * 2,
            self._start,
        )
        await self._start()
        for _ in range(12):
            await self.random.choice(actions)()

    async def _start(self) -> None:
        policy = {"strategy": self.random.choice(("newest_turns", "rolling_summary"))}
        if self.random.random() < 0.5:
            policy["budget"] = 300  # type: ignore[assignment]
        answer = await self._store.post(
            "/v1/conversations", json={"instructions": self._text(), "context_policy": policy}
        )
        assert answer.status_code == 200, answer.text
        self.conversations.append(answer.json()["id"])
        items = [{"role": role, "content": self._text()} for _ in range(4) for role in ("user", "assistant")]
        await self._store.post(f"/v1/conversations/{self.conversations[-1]}/items", json={"items": items})

    async def _request_reply(self) -> None:
        target = {} if self.random.random() < 0.3 else {"conversation": self.random.choice(self.conversations)}
        await self._respond(**target)

    async def _continue(self) -> None:
        if self.responses:
            await self._respond(previous_response_id=self.random.choice(self.responses[-4:]))

    async def _respond(self, **fields: Any) -> None:
        request: dict[str, Any] = {"input": self._text(), **fields}
        if self.random.random() < 0.5:
            request |= {"instructions": self._text(), "temperature": 1, "max_output_tokens": 50}
        if self.random.random() < 0.3:
            schema = {"type": "object", "properties": {"a": {"type": "number", "maximum": 10**25, "minimum": -1e-7}}}
            request["tools"] = [{"type": "function", "name": "f", "description": self._text(), "parameters": schema}]
        answer = await self._store.post("/v1/responses", json={**request, "stream": True})
        if answer.status_code == 200:
            events = [msgspec.json.decode(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            response = events[-1]["response"]
            self.responses.append(response["id"])
            self.failed += response["status"] == "failed"
            if self.random.random() < 0.5:
                self.conversations.append(response["conversation"]["id"])
        else:
            code = answer.json()["error"]["code"]
            assert code in ("context_length_exceeded", "response_in_progress", "model_error"), answer.text

    async def _change(self) -> None:
        path = f"/v1/conversations/{self.random.choice(self.conversations)}"
        appended = (
            await self._store.post(f"{path}/items", json={"items": [{"role": "user", "content": self._text()}]})
        ).json()
        item = appended["data"][0]["id"]
        action = self.random.choice(("pin", "retract", "describe", "compact", "undo", "redo"))
        match action:
            case "pin":
                answer = await self._store.post(f"{path}/items/{item}/pin")
            case "retract":
                answer = await self._store.delete(f"{path}/items/{item}")
            case "describe":
                answer = await self._store.post(path, json={"instructions": self._text()})
            case "compact":
                answer = await self._store.post(f"{path}/compact")
            case _:
                answer = await self._store.post(f"{path}/compact/{action}")
        assert answer.status_code < 500 or answer.status_code == 502, answer.text

    def _text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 25))) + "."


def _content_tokens(value: Any) -> int:
    """The tokens of the strings in `content`, `text`, `arguments` and `instructions` fields, at any depth."""
    match value:
        case str():
            return 0
        case dict():
            own = sum(
                count(value[name])
                for name in ("content", "text", "arguments", "instructions")
                if isinstance(value.get(name), str)
            )
            return own + sum(map(_content_tokens, value.values()))
        case list():
            return sum(map(_content_tokens, value))
        case _:
            return 0


@pytest.mark.parametrize("histories", [2, pytest.param(25, marks=pytest.mark.endless)])
async def test_each_request_of_a_random_chain_is_rendered_as_sent(
    histories: int, settings: Settings, store: httpx.AsyncClient, provider: ScriptedProvider, api: str
) -> None:
    rendered = failed = 0
    async with open_api(settings) as queries:
        for seed in range(histories):
            provider.requests.clear()
            chains = RandomChains(seed, store, provider, api)
            await chains.run()
            rendered, failed = rendered + len(chains.responses), failed + chains.failed
            sent = {request_sha256(body) for body in provider.requests}
            for response_id in chains.responses:
                answer = await queries.get(f"/v1/responses/{response_id}/context")
                assert answer.status_code == 200, answer.text
                body = msgspec.json.decode(answer.content)
                assert body["request_sha256_matches"] is True, (seed, response_id)
                assert request_sha256(body["request"]) in sent
                assert _content_tokens(body["request"]) <= body["tokens"] <= body["budget"]
    assert rendered > 4 * histories
    assert failed
