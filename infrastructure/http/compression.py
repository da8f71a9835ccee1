"""Compresses large answers with gzip. Streams are never compressed.

Level 6 makes a page a tenth smaller than level 1, and takes nine times as long. Compressing an answer below MIN_BYTES
would take as long as sending it.

The `ETag` is the same in both forms, because `If-Match` compares it.
"""

import asyncio
import re
import zlib
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure.http.connections import Connections

MIN_BYTES: Final = 8 * 1024
LEVEL: Final = 1
MIN_THREAD_BYTES: Final = 32 * 1024
"""From this size on, a thread compresses the answer. zlib lets the event loop run meanwhile."""

_GZIP_WINDOW = 31
"""zlib's number for a window of 32 KB and gzip's header."""

_TYPES = re.compile(rb"application/(json|x-ndjson|javascript)\b|text/(?!event-stream)")
_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class CompressionMiddleware:
    """ASGI middleware. Answers take turns in the thread, so that only one answer is in memory twice."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start" and _is_worth_compressing(message["headers"]):
                head = message  # not sent yet, because its headers depend on the body
                return
            if head is not None:
                started, head = head, None
                body: bytes = message.get("body", b"")
                encoding: list[tuple[bytes, bytes]] = []
                # A large file comes in several messages. The answer to HEAD for a file has no body.
                is_complete = len(body) >= MIN_BYTES and not message.get("more_body", False)
                if is_complete and accepts_gzip(scope["headers"]):
                    body = await self._compressed(body)
                    encoding = [(b"content-encoding", b"gzip"), (b"content-length", str(len(body)).encode())]
                await send({**started, "headers": _with_encoding(started["headers"], encoding)})
                message = {**message, "body": body}
            await send(message)

        await self._app(scope, receive, send_compressed)

    async def _compressed(self, body: bytes) -> bytes:
        if len(body) < MIN_THREAD_BYTES:
            return _gzip(body)
        async with self._connections.compression(len(body)):
            return await asyncio.to_thread(_gzip, body)


def accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """RFC 9110, 12.5.3. False if the client prefers an uncompressed answer."""
    sent = b",".join(value for name, value in headers if name == b"accept-encoding").decode("latin-1").lower()
    qualities: dict[str, float] = {}
    for element in sent.split(","):
        coding, _, parameter = element.replace(" ", "").replace("\t", "").partition(";")
        quality = _QUALITY.fullmatch(parameter)
        qualities[coding] = float(quality[1]) if quality else 0.0 if parameter else 1.0
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _is_worth_compressing(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """False for a stream, because its size is unknown."""
    by_name = dict(headers)
    size = by_name.get(b"content-length", b"0")
    return (
        int(size) >= MIN_BYTES
        and b"content-encoding" not in by_name
        and _TYPES.match(by_name.get(b"content-type", b"")) is not None
    )


def _with_encoding(
    headers: Iterable[tuple[bytes, bytes]], encoding: list[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    replaced = {name for name, _ in encoding}
    return [*(header for header in headers if header[0] not in replaced), *encoding, (b"vary", b"Accept-Encoding")]


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(body) + compressor.flush()
