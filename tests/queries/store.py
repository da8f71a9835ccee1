"""What a query test writes with, through the real log: conversations, items, replies; and the projector that shows them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from domain.commands import (
    AppendItems,
    Command,
    CompactContext,
    CompleteReply,
    DeleteConversation,
    DescribeConversation,
    EndConversation,
    FailReply,
    NewItem,
    RequestReply,
    RetractItem,
    StartConversation,
)
from domain.events import InputItem, Shown, Timing, Usage
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint, mint_uuid
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.mongo_views import MongoViews
from projections.projector import Projector
from projections.rebuild.rebuild import patiently
from projections.views.catalog import MONGO_VIEWS

SHOWN = Shown(
    version=1, ranges=(), budget=100, tokens=10, encoding="o200k_base", renderer=1, request_sha256=bytes(range(32))
)


def body(text: str, role: str = "user") -> bytes:
    return msgspec.json.encode({"type": "message", "role": role, "content": text})


def new_items(texts: Sequence[str], role: str = "user") -> tuple[NewItem, ...]:
    return tuple(NewItem(item_id=mint("msg"), item=body(text, role)) for text in texts)


class Writer:
    """Appends as the command side does. `tenant` is whose data it is."""

    def __init__(self, log: EventLog, tenant: str = "default") -> None:
        self._log = log
        self._tenant = tenant

    def of(self, tenant: str) -> "Writer":
        return Writer(self._log, tenant)

    async def do(self, conversation_id: str, command: Command) -> Appended:
        work = AppendRequest(
            principal=Principal(self._tenant, "someone"),
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id="test",
        )
        return await self._log.append(work)

    async def start(self, *texts: str, **fields: Any) -> str:
        """A new conversation with these messages in it."""
        conversation_id = mint("conv")
        given = {"owner": "someone", "items": new_items(texts), **fields}
        await self.do(conversation_id, StartConversation(conversation_id=conversation_id, tenant=self._tenant, **given))
        return conversation_id

    async def append(self, conversation_id: str, *texts: str) -> list[str]:
        """Messages at the end; their ids."""
        items = new_items(texts)
        await self.do(conversation_id, AppendItems(items=items, author="someone"))
        return [item.item_id for item in items]

    async def retract(self, conversation_id: str, item_id: str) -> Appended:
        return await self.do(conversation_id, RetractItem(item_id=item_id))

    async def compact(self, conversation_id: str, last: str, depth: int, text: str = "They talked.") -> Appended:
        """A summary stands for all items up to `last`, of this depth; the one before is taken in."""
        nothing = await self.do(conversation_id, DescribeConversation())
        command = CompactContext(
            compaction_id=mint("cmp"),
            summary=text,
            first=last,
            last=last,
            depth=depth,
            count=depth,
            tokens_before=100,
            tokens_after=5,
            model="smol",
            replaces=nothing.conversation.summary,
            usage=Usage(input_tokens=90, output_tokens=5),
            cost=7_000,
        )
        return await self.do(conversation_id, command)

    async def end(self, conversation_id: str) -> Appended:
        return await self.do(conversation_id, EndConversation())

    async def delete(self, conversation_id: str) -> Appended:
        return await self.do(conversation_id, DeleteConversation())

    async def ask(self, conversation_id: str, *texts: str, **parameters: Any) -> tuple[str, tuple[InputItem, ...]]:
        """A reply is asked for with these messages: its id, and they."""
        response_id = mint("resp")
        given = tuple(InputItem(item_id=mint("msg"), item=body(text)) for text in texts)
        request = RequestReply(
            response_id=response_id,
            model="smol",
            parameters=msgspec.json.encode(parameters),
            input=given,
            shown=SHOWN,
        )
        await self.do(conversation_id, request)
        return response_id, given

    async def answer(
        self, conversation_id: str, response_id: str, given: tuple[InputItem, ...], *texts: str, finish: str = "stop"
    ) -> tuple[NewItem, ...]:
        """The reply completes with these messages; they, with their ids."""
        output = new_items(texts, "assistant")
        completed = CompleteReply(
            response_id=response_id,
            model="smol-1",
            author="smol-1",
            input=given,
            output=output,
            usage=Usage(input_tokens=7, output_tokens=5, cached_tokens=2),
            finish_reason=finish,
            timing=Timing(first_ms=1, total_ms=2),
        )
        await self.do(conversation_id, completed)
        return output

    async def fail(self, conversation_id: str, response_id: str) -> Appended:
        return await self.do(
            conversation_id, FailReply(response_id=response_id, code="model_error", message="It did not answer.")
        )


class ManualProjector:
    """The real runner of the Mongo views, run when a test says so."""

    def __init__(self, settings: Settings) -> None:
        self._pool = make_pool(settings.postgres_url, max_size=4)
        self._mongo = mongodb.connect(settings)
        self._redis = redis.connect(settings)
        self._runner = Projector(
            postgres_url=settings.postgres_url,
            pool=self._pool,
            database=mongodb.database(self._mongo, settings),
            redis=self._redis,
            metrics=Metrics(),
            views=MONGO_VIEWS,
        )
        self.views = mongodb.database(self._mongo, settings)

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()
        await self._mongo.close()
        await self._redis.aclose()

    async def catch_up(self) -> None:
        """The views show all that was committed."""
        async with asyncio.timeout(20):
            await self._runner.catch_up()

    async def run(self, stop: asyncio.Event) -> None:
        await self._runner.run(stop)

    async def begin_anew(self, view: str, target: int = 0) -> None:
        """Empties a view, as if it had never been."""
        await patiently(lambda: MongoViews(self.views).begin_anew(view, target))
