"""Images and files in a request: their data is read while the request is sent, and again for each retry."""

import asyncio
import base64
import hashlib
import os
from typing import Any

import msgspec
import pytest

from context.inlined_contents import BodyWithContents, InlinedText, inlined_sha256
from context.rendering import request_sha256
from domain.content_references import ROW_BYTES, ContentReference
from domain.errors import ContentGone
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import CHUNK, MESSAGE, joined
from tests.scripted_provider import Exchange, ScriptedProvider


class Contents:
    """Keeps contents, and counts the rows that are read."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.rows_read = 0

    def add(self, size: int, label: str | None = "image/png") -> ContentReference:
        data = os.urandom(size)
        sha256 = hashlib.sha256(data).digest()
        self.data[sha256] = data
        return ContentReference(f"file-{sha256.hex()[:32]}", sha256, size, label)

    async def read_row(self, sha256: bytes, number: int) -> bytes | None:
        self.rows_read += 1
        data = self.data.get(sha256)
        return None if data is None else data[number * ROW_BYTES : (number + 1) * ROW_BYTES]

    def inlined(self, reference: ContentReference) -> str:
        return reference.before_data + base64.b64encode(self.data[reference.sha256]).decode()


def body_with(*urls: str) -> dict[str, Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    return {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": parts}]}


def three_images(contents: Contents) -> tuple[BodyWithContents, dict[str, Any]]:
    """A body with references, and the body that is sent."""
    found = [contents.add(size) for size in (1, ROW_BYTES, 3 * ROW_BYTES + 5)]
    body = body_with(*(reference.text for reference in found))
    return BodyWithContents(body, contents.read_row), body_with(*map(contents.inlined, found))


async def test_the_text_is_the_json_text_of_the_body_with_its_data() -> None:
    contents = Contents()
    sizes = (1, 2, 3, ROW_BYTES - 1, ROW_BYTES, ROW_BYTES + 1, 2 * ROW_BYTES, 3 * ROW_BYTES + 2)
    found = [contents.add(size) for size in sizes]
    odd = contents.add(1_000, 'image/png;a="é\\"')
    plain = contents.add(1_000, None)
    file = {"type": "file", "file": {"filename": "a", "file_data": plain.text}}
    words = {"type": "text", "text": odd.text}

    def with_urls(urls: list[str], file: dict[str, Any]) -> dict[str, Any]:
        body = body_with(*urls, "https://example.com/a.png")
        body["messages"][0]["content"] += [words, file]
        return {**body, "a": 1, "z": 2}

    references = [*found, odd, found[0]]
    body = BodyWithContents(with_urls([reference.text for reference in references], file), contents.read_row)
    inlined_file = {"type": "file", "file": {"filename": "a", "file_data": contents.inlined(plain)}}
    inlined = with_urls([contents.inlined(reference) for reference in references], inlined_file)
    text = InlinedText(body)
    chunks = [chunk async for chunk in text]
    assert b"".join(chunks) == msgspec.json.encode(inlined)
    assert text.length == sum(map(len, chunks))
    assert max(map(len, chunks)) < 2 * ROW_BYTES
    assert await inlined_sha256(body) == request_sha256(inlined)


async def test_a_retry_sends_the_data_again(chat: ModelProvider, provider: ScriptedProvider) -> None:
    lengths: list[str | None] = []

    def script(exchange: Exchange) -> None:
        lengths.append(exchange.headers["content-length"])
        if len(lengths) == 1:
            exchange.json(500, {}, retry_after_ms="1")
        else:
            exchange.stream_text("A cat.")

    provider.script = script
    body, inlined = three_images(Contents())
    assert joined([part async for part in chat.stream(body)]) == [(MESSAGE, "A cat.")]
    assert provider.requests == [inlined, inlined]
    assert lengths == [str(len(msgspec.json.encode(inlined)))] * 2


async def test_a_missing_content_is_no_failure_of_the_model(chat: ModelProvider, provider: ScriptedProvider) -> None:
    contents = Contents()
    body, inlined = three_images(contents)
    gone = dict(contents.data)
    del contents.data[list(contents.data)[-1]]
    for _ in range(6):  # more failures than a circuit breaker allows
        contents.rows_read = 0
        with pytest.raises(ContentGone):
            async for _ in chat.stream(body):
                pass
        assert contents.rows_read == 3  # there is no retry
    contents.data = gone
    assert joined([part async for part in chat.stream(body)]) == [(MESSAGE, "Hello, world!")]
    assert provider.requests == [inlined]


async def test_data_is_read_only_as_fast_as_the_provider_takes_it() -> None:
    contents = Contents()
    reference = contents.add(36_000_000)
    body = BodyWithContents(body_with(reference.text), contents.read_row)
    ahead: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        received = 0
        while left:
            data = await reader.read(min(left, 64 * 1024))
            left -= len(data)
            received += len(data)
            ahead.append(contents.rows_read * ROW_BYTES * 4 // 3 - received)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: " + CHUNK + b"\n\ndata: [DONE]\n\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = ModelProvider(Settings(openai_base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert joined([part async for part in client.stream(body)]) == [(MESSAGE, "a")]
    await client.close()
    server.close()
    assert max(ahead) < 16_000_000  # what the kernel and the transport hold
