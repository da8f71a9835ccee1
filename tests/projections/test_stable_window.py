"""In a long conversation, requests only grow at their end, except when the window moves.

So a provider's prompt cache may have most bytes.

scripts/test tests/projections/test_stable_window.py -m endless     talks for a thousand turns
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from threading import Event
from typing import Any, Literal

import httpx
import msgspec
import pytest
from msgspec import Struct

from commands.main import create_app
from context.assembly import Contexts, SharedContexts
from context.choice import ReplyRequest
from context.history_backwards import RecentItems
from context.models import Models
from context.snapshot_from_log import refill
from context.snapshot_store import snapshot_lookup
from context.tokens import count
from domain.events import ReplyRequested
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.context_view import ContextView
from projections.snapshot_change import snapshot_changes
from scripts.loading.sources import Chitchat, Conversation
from tests.projections.world import World
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

A_THOUSAND = 1_000
A_FEW = 60
TURNS_TO_A_CALL = 5
TURNS_TO_A_REBUILD = 7
MODEL = "scripted"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


def texts_of_chitchat(number: int) -> list[str]:
    """The first `number` texts of the longest conversation of the dataset."""
    longest = max(
        (entry for entry in Chitchat() if isinstance(entry, Conversation)), key=lambda entry: len(entry.items)
    )
    return [item["content"] or "…" for item in longest.items][:number]


def answer(exchange: Exchange, api: str, text: str | None, call_id: str) -> None:
    """Streams an answer in the form of this API. `text` None: answers with a call."""
    call = {"name": "look", "arguments": "{}"}
    if api == "chat" and text is not None:
        exchange.stream_text(text)
    elif api == "chat":
        exchange.begin_stream()
        exchange.delta(tool_calls=[{"index": 0, "id": call_id, "type": "function", "function": call}])
        exchange.text_chunk(finish_reason="tool_calls")
        exchange.end_stream()
    elif text is not None:
        part = {"type": "output_text", "text": text, "annotations": []}
        exchange.stream_items({"id": "msg_theirs", "type": "message", "role": "assistant", "content": [part]})
    else:
        exchange.stream_items({"id": "fc_theirs", "type": "function_call", "call_id": call_id, **call})


def sequence(body: dict[str, Any]) -> list[bytes]:
    """The parts of a request, in the order in which a provider reads them."""
    return [msgspec.json.encode(part) for part in (body["tools"], body.get("instructions"), *messages(body))]


def messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    return body["messages"] if "messages" in body else body["input"]  # type: ignore[no-any-return]


async def no_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    return None


class Sent(Struct, frozen=True):
    body: dict[str, Any]
    requested: ReplyRequested

    @property
    def parts(self) -> list[bytes]:
        return sequence(self.body)


class Talk:
    """One long conversation. `sent`: its requests to the provider."""

    def __init__(self, store: httpx.AsyncClient, world: World, provider: ScriptedProvider, settings: Settings) -> None:
        self._store, self._world, self._provider = store, world, provider
        self._api = settings.model_api
        self._models = Models(settings)
        self._after = 0
        self.conversation_id = ""
        self.sent: list[Sent] = []

    async def start(self, budget: int) -> None:
        body = {"instructions": "Answer like a friend.", "context_policy": {"budget": budget}}
        self.conversation_id = (await self._store.post("/v1/conversations", json=body)).json()["id"]

    async def turn(self, number: int, question: str, reply: str) -> None:
        """Every fifth turn has a call. Before every seventh turn, the snapshot is made again."""
        if number % TURNS_TO_A_REBUILD == 0:
            await self._world.redis.flushdb()
            head = await self._world.reader.head(self.conversation_id)
            assert head is not None
            await refill(self._world.reader, self._world.redis, "default", self.conversation_id, head.version)
        call_id = mint("call") if number % TURNS_TO_A_CALL == 0 else None
        await self._request(
            {"type": "message", "role": "user", "content": question}, None if call_id else reply, call_id
        )
        if call_id:
            await self._request({"type": "function_call_output", "call_id": call_id, "output": question}, reply, None)

    async def _request(self, item: dict[str, Any], reply: str | None, call_id: str | None) -> None:
        await self._project()
        expected = [await self._assembled(source, item) for source in ("redis", "log")]
        self._provider.script = lambda exchange: answer(exchange, self._api, reply, call_id or "")
        request = {"conversation": self.conversation_id, "model": MODEL, "input": [item], "tools": [TOOL]}
        response = await self._store.post("/v1/responses", json=request)
        assert response.status_code == 200, response.text
        await self._project()
        requested = next(event for event in reversed(self._events) if isinstance(event, ReplyRequested))
        sent = Sent(self._provider.requests[-1], requested)
        assert expected == [(sent.body, requested.shown)] * 2
        left_out = sum(part.count or 0 for part in requested.shown.left_out)
        assert response.headers.get("x-context-left-out", "0") == str(left_out)
        self.sent.append(sent)

    async def _project(self) -> None:
        batch = await self._world.reader.after(self._after, limit=1_000)
        self._after = batch[-1].position if batch else self._after
        self._events = [recorded.event for recorded in batch]
        await ContextView(self._world.redis, self._world.reader, self._world.database).apply_changes(
            snapshot_changes(batch)
        )

    async def _assembled(self, source: Literal["redis", "log"], item: dict[str, Any]) -> tuple[Any, Any]:
        lookup = snapshot_lookup(self._world.redis) if source == "redis" else no_snapshot
        contexts: Contexts = SharedContexts(self._models, lookup).of(self._world.reader.of_tenant("default"))
        head = await self._world.reader.head(self.conversation_id)
        assert head is not None
        if source == "redis":
            recent = await contexts.snapshot(self.conversation_id, MODEL)
            assert recent is not None
            assert recent.is_at(head.stream_version)
        reply_request = ReplyRequest(
            model=MODEL, parameters={"tools": [TOOL]}, input=[(mint("msg"), item)], cache_key=self.conversation_id
        )
        context = await contexts.assemble(self.conversation_id, head.stream_version, reply_request)
        return context.fields, context.shown


def is_prefix(earlier: Sequence[bytes], later: Sequence[bytes]) -> bool:
    return list(later[: len(earlier)]) == list(earlier)


def sent_before(earlier: Sequence[bytes], later: Sequence[bytes]) -> int:
    """How many bytes of `later` were sent before."""
    shared = 0
    for one, other in zip(earlier, later, strict=False):
        if one != other:
            break
        shared += len(one)
    return shared


@pytest.fixture(params=["chat", "responses"])
async def talk(
    request: pytest.FixtureRequest, settings: Settings, world: World, provider: ScriptedProvider
) -> AsyncIterator[Talk]:
    changed = settings.model_copy(
        update={"openai_base_url": provider.url, "model_api": request.param, "model_window": 400_000}
    )
    provider.models = [MODEL]
    app = create_app(changed, Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as store:
            yield Talk(store, world, provider, changed)


@pytest.mark.parametrize("turns", [A_FEW, pytest.param(A_THOUSAND, marks=pytest.mark.endless)])
async def test_requests_only_grow_at_their_end_except_when_the_window_moves(talk: Talk, turns: int) -> None:
    texts = texts_of_chitchat(2 * turns)
    await talk.start(budget=sum(count(text) + 4 for text in texts) // 10)
    for number, (question, reply) in enumerate(zip(texts[::2], texts[1::2], strict=True), 1):
        await talk.turn(number, question, reply)

    pairs = list(zip(talk.sent, talk.sent[1:], strict=False))
    moves = [later for earlier, later in pairs if not is_prefix(earlier.parts, later.parts)]
    # Each move makes room for four tenths of the budget.
    assert 10 < len(moves) <= max(30, turns // 20)
    for earlier, later in pairs:
        shared = later.requested.shown.shared_prefix
        assert shared is not None
        if later in moves:
            assert shared.reason == "input_changed"
            assert 0 < shared.tokens < 60
        else:
            assert (shared.reason, shared.tokens) == (None, earlier.requested.shown.tokens)
            assert shared.messages == len(messages(earlier.body))
    for sent in talk.sent:
        assert sent.requested.shown.tokens <= sent.requested.shown.budget
    total = sum(len(part) for sent in talk.sent for part in sent.parts)
    shared_bytes = sum(sent_before(earlier.parts, later.parts) for earlier, later in pairs)
    figures = (
        f"{len(talk.sent)} requests, {len(moves)} moves, {shared_bytes / total:.2%} of {total} bytes were sent before"
    )
    assert shared_bytes / total >= (0.95 if turns == A_THOUSAND else 0.6), figures
