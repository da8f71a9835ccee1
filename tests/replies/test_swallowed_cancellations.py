"""A cancelled reply ends also if a store's client swallowed the cancellation, as `wait_for` of Python 3.11 can."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec
import pytest

from context.models import Models
from domain.commands import RequestReply
from domain.errors import ModelFailed
from domain.events import Shown
from infrastructure.access.principal import ANONYMOUS
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.repeat import Repeat
from replies.running_reply import ReplyServices, RunningReply
from tests.queries.writer import SHOWN
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.mark.parametrize("cancelled_during", ["repeat", "learn"])
async def test_a_reply_that_is_cancelled_during_a_repeat_is_not_completed(
    settings: Settings, provider: ScriptedProvider, cancelled_during: Literal["repeat", "learn"]
) -> None:
    def script(exchange: Exchange) -> None:
        if len(provider.requests) == 1:
            exchange.json(400, {"error": {"message": "This model's maximum context length is 5 tokens."}})
        else:
            exchange.stream_text("An answer.")

    provider.script = script

    async def cancel() -> None:
        """The call has ended when its task is cancelled."""
        call = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(call.set_result, None)
        asyncio.get_running_loop().call_soon(reply.stop, "cancelled")
        await asyncio.wait_for(call, 5)

    async def repeat(_: ModelFailed, shown: Shown) -> Repeat:
        if cancelled_during == "repeat":
            await cancel()
        return Repeat(body=body, shown=shown, reason="window", learn=cancel)

    settings = settings.model_copy(update={"openai_base_url": provider.url})
    model_provider = ModelProvider(settings)
    unused = cast("Any", None)
    services = ReplyServices(
        log=unused,
        reader=unused,
        provider=model_provider,
        models=Models(settings),
        live=unused,
        metrics=Metrics(),
        titles=unused,
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}], "stream": True}
    command = RequestReply(response_id=mint("resp"), model="m", parameters=b"{}", input=(), shown=SHOWN)
    reply = RunningReply(
        services,
        principal=ANONYMOUS,
        request_id="req_1",
        command=command,
        body=body,
        spend=lambda _: None,
        repeat=repeat,
    )
    await reply.start()
    response, _ = await reply.response()
    await model_provider.close()
    assert msgspec.json.decode(response)["status"] == "cancelled"
    assert len(provider.requests) == (1 if cancelled_during == "repeat" else 2)
