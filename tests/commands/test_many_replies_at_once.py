"""More replies run at once than an HTTP client has connections by default."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Event

import httpx
import pytest

from commands.main import create_app
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_response

REPLIES = 150
CHUNK = b'data: {"choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}\n\n'


class SlowProvider:
    """Answers each request with one word. The answers end when `may_end` is set."""

    def __init__(self) -> None:
        self.requests = 0
        self.all_requested = asyncio.Event()
        self.may_end = asyncio.Event()
        self.answering: list[asyncio.Task[None] | None] = []

    async def close(self) -> None:
        self.may_end.set()
        await asyncio.gather(*filter(None, self.answering), return_exceptions=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answering.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        await reader.readexactly(length)
        self.requests += 1
        if self.requests == REPLIES:
            self.all_requested.set()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(CHUNK % (b'"content":"Word"', b"null"))
        await self.may_end.wait()
        writer.write(CHUNK % (b"", b'"stop"') + b"data: [DONE]\n\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def slow_provider() -> SlowProvider:
    return SlowProvider()


@pytest.fixture
async def api(settings: Settings, slow_provider: SlowProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with await asyncio.start_server(slow_provider.answer, "127.0.0.1", 0, backlog=1024) as server:
        port = server.sockets[0].getsockname()[1]
        changed = {"openai_base_url": f"http://127.0.0.1:{port}/v1", "default_model": "slow", "model_timeout": 20}
        app = create_app(settings.model_copy(update=changed), Metrics(), Event())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=30) as client:
                yield client
        await slow_provider.close()


async def test_a_slow_provider_gets_a_hundred_and_fifty_requests_at_once(
    api: httpx.AsyncClient, slow_provider: SlowProvider
) -> None:
    await asyncio.gather(*(create_response(api, f"{n}", background=True) for n in range(REPLIES)))
    async with asyncio.timeout(5):
        await slow_provider.all_requested.wait()
    assert slow_provider.requests == REPLIES
    slow_provider.may_end.set()
