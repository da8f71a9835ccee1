"""The command API with a provider that writes summaries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

import httpx
from msgspec import Struct

from commands.command_route import CommandContext
from commands.main import create_app
from commands.rolling_summary import context_with_summary
from context.assembly import Context
from context.choice import ReplyRequest
from context.selection import BUDGET
from domain.events import ContextCompacted
from domain.items import Item
from infrastructure.access.principal import ANONYMOUS
from infrastructure.ids import mint
from infrastructure.limits.allowance import Allowance
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, message
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WINDOW = 4_000
MODEL = "scripted"


class Store(Struct):
    """The command API, and requests to it. `context` is for functions without a route."""

    api: httpx.AsyncClient
    context: CommandContext

    async def assemble(self, conversation_id: str, text: str = "And now?", **parameters: Any) -> tuple[int, Context]:
        """(version, context). Writes a summary first if one is needed."""
        head = await self.context.dependencies.reader.head(conversation_id)
        assert head is not None
        reply_request = ReplyRequest(model=MODEL, parameters=parameters, input=[(mint("msg"), message(text))])
        return await context_with_summary(self.context, conversation_id, head.stream_version, reply_request)

    async def append(self, conversation_id: str, *items: Item) -> list[str]:
        ids: list[str] = []
        for start in range(0, len(items), 20):
            answer = await self.api.post(
                f"/v1/conversations/{conversation_id}/items", json={"items": items[start : start + 20]}
            )
            assert answer.status_code == 200, answer.text
            ids += [item["id"] for item in answer.json()["data"]]
        return ids

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.api.post(f"/v1/conversations/{path}", json=body or None)


async def stay_connected() -> None:
    """Never ends. For `CommandContext.disconnected`."""
    await asyncio.Event().wait()


@asynccontextmanager
async def open_store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[Store]:
    provider.script = write_summary
    changed = {"openai_base_url": provider.url, "model_timeout": 5, "model_window": WINDOW, "default_model": MODEL}
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            context = CommandContext(
                dependencies=app.state.dependencies.of(ANONYMOUS),
                principal=ANONYMOUS,
                allowance=Allowance(app.state.dependencies.limiter, ANONYMOUS),
                request_id="req_test",
                if_match=None,
                idempotency=None,
                disconnected=stay_connected,
            )
            yield Store(client, context)


def write_summary(exchange: Exchange) -> None:
    exchange.stream_text(f"Summary {len(exchange.provider.requests)}: they talked. Ann likes tea.")


def talk(turns: int, words: int = 40) -> list[Item]:
    """A turn has a message of the user and one of the assistant."""
    return [
        {"type": "message", "role": role, "content": f"{role} {turn} " + "word " * words}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]


def compactions(log: Log, conversation_id: str) -> list[ContextCompacted]:
    return [event for event in log.events(conversation_id) if isinstance(event, ContextCompacted)]


def budget_left_out(context: Context) -> list[str]:
    """One BUDGET for each range of items that did not fit."""
    return [left_out.reason for left_out in context.shown.left_out if left_out.reason == BUDGET]


async def create_rolling(store: Store, budget: int = 1_000, **fields: Any) -> str:
    """Creates a conversation with a rolling summary."""
    return await create_conversation(
        store.api, context_policy={"strategy": "rolling_summary", "budget": budget}, **fields
    )
