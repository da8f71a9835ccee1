"""How soon the first word of a reply is there while 100 conversations stream, beside the same provider asked directly; and what it takes."""

import asyncio
import random
import time
from statistics import quantiles
from urllib.parse import urlsplit

import msgspec
import psutil
from msgspec import Struct

from scripts.benchmarks.figures import Board
from scripts.benchmarks.provider import PIECES, PIECES_A_SECOND
from scripts.keepalive import Connection

STREAMS = 100
_REPLY_SECONDS = PIECES / PIECES_A_SECOND
_READ_AT_ONCE = 256 * 1024


class Asked(Struct, frozen=True):
    """A streamed request: where, with what; the first word has come with `mark`, and the answer ends with `end`."""

    base_url: str
    path: str
    body: bytes
    mark: bytes
    end: bytes


class BrokeOff(Exception):
    """A stream ended before its end."""


async def run(board: Board, provider_url: str, base_url: str, api: psutil.Process, seconds: float) -> None:
    """Measures the provider, then the store before it. Raises BrokeOff."""
    body = msgspec.json.encode({"model": "even", "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
    direct = Asked(provider_url, "/v1/chat/completions", body, b'"content":', b"data: [DONE]")
    opened = await asyncio.gather(*(Connection.open(base_url) for _ in range(4)))
    idents: list[str] = []
    for number in range(STREAMS):
        answer = await opened[number % 4].request("POST", "/v1/conversations", b"{}")
        idents.append(answer.json()["id"])
    told = [
        Asked(
            base_url,
            "/v1/responses",
            msgspec.json.encode({"conversation": ident, "input": "Go on.", "stream": True}),
            b"response.output_text.delta",
            b"event: response.completed",
        )
        for ident in idents
    ]
    floor = f"the provider itself, {STREAMS} streams"
    _add(board, floor, await _streams([direct] * STREAMS, seconds), None)
    before = 0
    for number in range(2):  # the first time for what is only taken once
        first = await _streams(told, seconds)
        before = before or api.memory_info().rss
        if number:
            _add(board, f"first word of a reply, {STREAMS} streams", first, floor)
    grown = (api.memory_info().rss - before) / 1e6
    board.add(f"memory of the api that {STREAMS} streams added in the second half", grown, unit="MB")
    for ident in idents:
        await opened[0].request("DELETE", f"/v1/conversations/{ident}")
    for connection in opened:
        connection.close()


def _add(board: Board, name: str, milliseconds: list[float], floor: str | None) -> None:
    cuts = quantiles(milliseconds, n=100, method="inclusive")
    board.add(name, cuts[49], floor=floor, unit="ms", p50_ms=cuts[49], p99_ms=cuts[98])


async def _streams(asked: list[Asked], seconds: float) -> list[float]:
    """Asks on every connection, again and again; milliseconds to each first word. They begin one after the other."""
    chance = random.Random(1)  # noqa: S311 - not a secret
    end = time.perf_counter() + seconds + _REPLY_SECONDS
    starts = [time.perf_counter() + chance.random() * _REPLY_SECONDS for _ in asked]

    async def repeat(one: Asked, start: float) -> list[float]:
        await asyncio.sleep(start - time.perf_counter())
        parts = urlsplit(one.base_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_READ_AT_ONCE)
        head = f"POST {one.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(one.body)}\r\n\r\n".encode() + one.body
        taken: list[float] = []
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(request)
            taken.append((await _first_word(reader, one) - began) * 1000)
        writer.close()
        return taken

    found = await asyncio.gather(*(repeat(one, start) for one, start in zip(asked, starts, strict=True)))
    return [each for taken in found for each in taken]


async def _first_word(reader: asyncio.StreamReader, asked: Asked) -> float:
    """When the first word came; returns when the answer has ended."""
    first: float | None = None
    seen = b""
    while asked.end not in seen or not seen.endswith(b"0\r\n\r\n"):
        data = await reader.read(_READ_AT_ONCE)
        if not data:
            raise BrokeOff(asked.path)
        if first is None:
            seen += data
            if not b"HTTP/1.1 200".startswith(seen[:12]):
                raise BrokeOff(f"{asked.path}: {seen[:600].decode(errors='replace')}")
            if asked.mark in seen:
                first = time.perf_counter()
        else:
            seen = seen[-8192:] + data if asked.end not in seen else seen + data
    if first is None:
        raise BrokeOff(asked.path)
    return first
