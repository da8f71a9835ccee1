"""Connections to a provider: closing, reuse, slow readers, redirects, proxies, and a password in the URL."""

import asyncio
import base64
import json
import socket
import threading
from contextlib import aclosing

import psutil
import pytest

from domain.errors import ModelFailed
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import ItemStarted
from tests.replies.provider.conftest import BODY, CHUNK, MESSAGE, failure_of, joined, parts_of
from tests.scripted_provider import Exchange, ScriptedProvider

LONG_BODY = {**BODY, "messages": [{"role": "user", "content": "a" * 30_000_000}]}


async def test_a_reader_may_take_longer_than_the_model_timeout(chat: ModelProvider, provider: ScriptedProvider) -> None:
    parts = 0
    async for _ in chat.stream(BODY):
        parts += 1
        await asyncio.sleep(0.6)
    assert parts == 6


def stream_for_ten_seconds(exchange: Exchange) -> None:
    exchange.begin_stream()
    for _ in range(1000):
        exchange.text_chunk("on and ")
        threading.Event().wait(0.01)


async def test_closing_the_stream_closes_the_connection(chat: ModelProvider, provider: ScriptedProvider) -> None:
    provider.script = stream_for_ten_seconds
    async with aclosing(chat.stream(BODY)) as parts:  # type: ignore[type-var]  # its type is an iterator, but it is a generator
        assert isinstance(await anext(parts), ItemStarted)
    assert await asyncio.to_thread(provider.disconnected.wait, 1)


@pytest.mark.parametrize("delay_seconds", [0.1, 0.4], ids=["before the answer", "during the answer"])
async def test_cancelling_the_reader_closes_the_connection(
    chat: ModelProvider, provider: ScriptedProvider, delay_seconds: float
) -> None:
    def script(exchange: Exchange) -> None:
        threading.Event().wait(0.2)
        stream_for_ten_seconds(exchange)

    provider.script = script
    reader = asyncio.create_task(parts_of(chat))
    await asyncio.sleep(delay_seconds)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await asyncio.to_thread(provider.disconnected.wait, 1)


async def test_a_connection_is_reused(chat: ModelProvider, provider: ScriptedProvider) -> None:
    """The provider of this test keeps the connection open after an answer. The scripted provider would close it."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            assert json.loads(await reader.readexactly(length)) == BODY
            data = b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n"
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(data), data))
            await asyncio.sleep(0.05)
            writer.write(b"0\r\n\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = ModelProvider(Settings(openai_base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    for _ in range(3):
        assert len(await parts_of(client)) == 3
    await client.close()
    server.close()
    assert connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int, provider: ScriptedProvider) -> None:
    """A redirect to another path of the same host is not followed either."""
    paths: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        paths.append(head.split(b" ")[1])
        location = b"/elsewhere" if status == 301 else provider.url.encode() + b"/chat/completions"
        writer.write(b"HTTP/1.1 %d Moved\r\nlocation: %s\r\ncontent-length: 0\r\n" % (status, location))
        writer.write(b"connection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = ModelProvider(Settings(openai_base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    failure = await failure_of(client)
    with pytest.raises(ModelFailed, match="redirect"):
        await client.list_models()
    await client.close()
    server.close()
    assert (failure.code, failure.unreachable) == ("model_error", False)
    assert f"a redirect (status {status})" in failure.message
    assert paths == [b"/chat/completions", b"/models"]
    assert (provider.requests, provider.list_requests) == ([], 0)


async def test_the_proxy_of_the_environment_is_used_except_for_excluded_hosts(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for url, passes_proxy in ((provider.url, False), ("http://models.example/v1", True)):
        client = ModelProvider(Settings(openai_base_url=url, model_timeout=1))
        if passes_proxy:
            await failure_of(client)
        else:
            await parts_of(client)
        await client.close()
    proxy.close()
    assert targets == [b"http://models.example/v1/chat/completions"]
    assert len(provider.requests) == 1


async def test_a_user_name_and_password_in_the_url_are_sent_as_basic_auth(
    provider: ScriptedProvider,
) -> None:
    authorizations: list[str | None] = []

    def script(exchange: Exchange) -> None:
        authorizations.append(exchange.headers["authorization"])
        exchange.stream_text("Hello")

    provider.script = script
    url = provider.url.replace("://", "://us%40er:p%3Aw@")
    client = ModelProvider(Settings(openai_base_url=url, model_timeout=1))
    try:
        assert joined(await parts_of(client)) == [(MESSAGE, "Hello")]
        assert [listed["id"] for listed in await client.list_models()] == ["scripted"]
    finally:
        await client.close()
    assert authorizations == ["Basic " + base64.b64encode(b"us@er:p:w").decode()]


async def test_a_provider_that_does_not_read_a_long_request_could_not_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as provider:  # the system opens its connections, but nobody reads
        url = f"http://127.0.0.1:{provider.getsockname()[1]}"
        client = ModelProvider(Settings(openai_base_url=url, model_timeout=0.3))
        async with asyncio.timeout(20):
            failure = await failure_of(client, LONG_BODY)
        await client.close()
        still_open = [each for each in psutil.Process().net_connections() if each.raddr == provider.getsockname()]
    assert (failure.code, failure.unreachable) == ("model_error", True)
    assert still_open == []


async def test_a_provider_may_take_longer_than_the_model_timeout_to_read_a_request() -> None:
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(received) < length:
            received.extend(await reader.readexactly(min(1_000_000, length - len(received))))
            await asyncio.sleep(0.1)
        data = b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(data), data))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = ModelProvider(Settings(openai_base_url=url, model_timeout=1))
    assert len(await parts_of(client, LONG_BODY)) == 3
    await client.close()
    server.close()
    assert json.loads(received) == LONG_BODY
