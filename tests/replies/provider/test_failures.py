"""Everything a provider can do wrong is a ModelFailed; retries come before the first piece alone, and a reader that goes is felt."""

import asyncio
import json
import threading
import time
from contextlib import aclosing
from email.utils import formatdate
from typing import Any

import pytest

from domain.errors import ModelFailed
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import ItemStarted
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import BODY, pieces_of


async def failure_of(model: ModelProvider) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(model)
    return failed.value


def refuses(status: int, error: Any, **headers: str) -> Any:
    return lambda exchange: exchange.json(status, {"error": error}, **headers)


def writes(*lines: bytes) -> Any:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for line in lines:
            exchange.wfile.write(line)
            exchange.wfile.flush()

    return script


CHUNK = b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (400, {"message": "secret"}, ("model_error", 1)),
        (401, {"message": "secret"}, ("model_error", 1)),
        (400, "secret", ("model_error", 1)),
        (404, {}, ("model_not_found", 1)),
        (400, {"code": "model_not_found", "message": "secret"}, ("model_not_found", 1)),
        (400, {"code": "context_length_exceeded"}, ("context_length_exceeded", 1)),
        (400, {"code": 400, "type": "exceed_context_size_error"}, ("context_length_exceeded", 1)),
        (400, {"message": "This model's maximum context length is 5"}, ("context_length_exceeded", 1)),
        (500, {"message": "secret"}, ("model_error", 3)),
        (429, {"message": "secret"}, ("model_rate_limited", 3)),
    ],
)
async def test_a_refusal_is_told_by_its_code_and_what_may_pass_is_tried_again(
    chat: ModelProvider, provider: Provider, status: int, error: Any, outcome: tuple[str, int]
) -> None:
    provider.script = refuses(status, error, retry_after_ms="10")
    failure = await failure_of(chat)
    assert (failure.code, len(provider.requests)) == outcome
    assert "secret" not in failure.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7.5", 7.5),
        ("-1", None),
        ("nan", None),
        ("soon", None),
        ("1e9", None),
        pytest.param(formatdate(time.time() + 3600), 3600, id="a date"),
    ],
)
async def test_a_rate_limit_says_when_to_come_back(
    chat: ModelProvider, provider: Provider, header: str, seconds: float | None
) -> None:
    provider.script = refuses(429, {}, retry_after=header, x_should_retry="false")
    failure = await failure_of(chat)
    assert failure.code == "model_rate_limited"
    assert failure.retry_after == (seconds if seconds is None else pytest.approx(seconds, rel=0.2))


async def test_a_request_is_made_again_while_nothing_has_come(chat: ModelProvider, provider: Provider) -> None:
    working = provider.script

    def script(exchange: Exchange) -> None:
        provider.script = working
        exchange.json(503, {}, retry_after_ms="10")

    provider.script = script
    assert len(await pieces_of(chat)) == 6
    assert len(provider.requests) == 2


async def test_a_request_is_never_made_again_once_something_has_come(chat: ModelProvider, provider: Provider) -> None:
    provider.script = writes(b"data: " + CHUNK.replace(b'"stop"', b"null") + b"\n\n")
    assert (await failure_of(chat)).message == "The model provider's answer broke off."
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "lines",
    [
        (b"data: {not json\n\n",),
        (b'data: "text"\n\n',),
        (b"data: 5\n\n",),
        (b"data: null\n\n",),
        (b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',),
        (b'data: {"choices":' + b"[" * 100_000 + b"\n\n",),
        (b'data: {"error":{"message":"secret"}}\n\n',),
        (b"event: error\ndata: {}\n\n",),
        (b"data: " + b"x" * 9_000_000,),
        (b"data: x\n" * 9_000_000,),
        (b"\n" * 100,),
        (),
    ],
    ids=range(13),
)
async def test_what_is_no_stream_of_answers_is_a_failure(
    chat: ModelProvider, responses: ModelProvider, provider: Provider, lines: tuple[bytes, ...]
) -> None:
    provider.script = writes(*lines)
    for model in (chat, responses):
        failure = await failure_of(model)
        assert failure.code == "model_error"
        assert not failure.unreachable


@pytest.mark.parametrize(
    "lines",
    [
        (b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n",),
        (b"data:" + CHUNK + b"\r\n\r\ndata:[DONE]\r\n\r\n",),
        (b": a comment\n\nevent: x\nid: 1\nretry: 5\ndata: " + CHUNK + b"\n\n",),
        (b"data: " + CHUNK,),
        (b"data: " + CHUNK.replace(b",", b",\ndata: ") + b"\n\n",),
        tuple(bytes([each]) for each in b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n"),
        (b"data: " + CHUNK + b"\n\ndata: [DONE]\n\ndata: {not json\n\n",),
    ],
)
async def test_a_stream_of_any_shape_the_standard_allows_is_read(
    chat: ModelProvider, provider: Provider, lines: tuple[bytes, ...]
) -> None:
    provider.script = writes(*lines)
    assert len(await pieces_of(chat)) == 3


@pytest.mark.parametrize("line", [b"", b": still here\n\n"])
async def test_a_provider_that_says_nothing_for_long_is_too_slow(
    chat: ModelProvider, provider: Provider, line: bytes
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.piece("par")
        for _ in range(20):
            exchange.wfile.write(line)
            threading.Event().wait(0.2)

    provider.script = script
    begun = time.monotonic()
    failure = await failure_of(chat)
    assert (failure.code, failure.timed_out) == ("model_timeout", True)
    assert 0.9 < time.monotonic() - begun < 2


async def test_a_reader_may_take_its_time(chat: ModelProvider, provider: Provider) -> None:
    pieces = 0
    async for _ in chat.stream(BODY):
        pieces += 1
        await asyncio.sleep(0.6)
    assert pieces == 6


def endless(exchange: Exchange) -> None:
    exchange.begin_stream()
    for _ in range(1000):
        exchange.piece("on and ")
        threading.Event().wait(0.01)


async def test_the_provider_is_hung_up_on_when_its_reader_closes(chat: ModelProvider, provider: Provider) -> None:
    provider.script = endless
    async with aclosing(chat.stream(BODY)) as pieces:  # type: ignore[type-var]  # an iterator that is a generator
        assert isinstance(await anext(pieces), ItemStarted)
    assert await asyncio.to_thread(provider.hung_up.wait, 1)


@pytest.mark.parametrize("after", [0.1, 0.4])
async def test_the_provider_is_hung_up_on_when_its_reader_is_cancelled(
    chat: ModelProvider, provider: Provider, after: float
) -> None:
    def script(exchange: Exchange) -> None:
        threading.Event().wait(0.2)
        endless(exchange)

    provider.script = script
    reader = asyncio.create_task(pieces_of(chat))
    await asyncio.sleep(after)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await asyncio.to_thread(provider.hung_up.wait, 1)


async def test_a_connection_is_used_again(chat: ModelProvider, provider: Provider) -> None:
    """That of a provider which ends its answers as HTTP does; the scripted one closes after each."""
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
    model = ModelProvider(Settings(openai_base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    for _ in range(3):
        assert len(await pieces_of(model)) == 3
    await model.close()
    server.close()
    assert connections == 1


async def test_without_a_provider_there_is_a_failure() -> None:
    model = ModelProvider(Settings())
    assert (await failure_of(model)).code == "model_error"
    assert await model.known("anything")
