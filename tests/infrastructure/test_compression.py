"""gzip: which answers are compressed, and for which clients."""

import asyncio
import gzip
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from infrastructure.http.compression import MIN_BYTES, MIN_THREAD_BYTES, CompressionMiddleware, accepts_gzip
from infrastructure.http.connections import Connections, Limits
from infrastructure.http.errors import ApiError

WORDS = [f"word{number}" for number in range(2000)]
TEXT = " ".join(random.Random(7).choices(WORDS, k=1_100_000))
"""About 8 MB of random words."""

FILE = Path(__file__).parents[2] / "infrastructure" / "deploy" / "openapi.json"


async def text(request: Request) -> Response:
    query = request.query_params
    headers = {"etag": '"7"', **({"content-encoding": "br"} if "encoded" in query else {})}
    size = int(query["size"])
    body = json.dumps(TEXT[: size - 2]).encode()
    return Response(body, headers=headers, media_type=query.get("type", "application/json"))


async def stream(_: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: " + b"x" * MIN_BYTES + b"\n\n"

    return StreamingResponse(events(), media_type="text/event-stream; charset=utf-8")


@pytest.fixture
def connections() -> Connections:
    return Connections(Limits(max_unread_bytes=1_000_000, large_answer_wait_seconds=0.05))


@pytest.fixture
async def api(connections: Connections) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(
        routes=[
            Route("/text", text),
            Route("/stream", stream),
            Route("/file", lambda _: FileResponse(FILE, media_type="text/javascript")),
        ],
        middleware=[Middleware(CompressionMiddleware, connections=connections)],
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://things") as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, accept: str | None = "gzip", method: str = "GET") -> httpx.Response:
    """Returns the answer. Its `extensions["sent"]` has the body before decompression."""
    headers = {"accept-encoding": accept or ""}
    async with api.stream(method, path, headers=headers) as answer:
        sent = b"".join([chunk async for chunk in answer.aiter_raw()])
    answer.extensions["sent"] = sent
    return answer


@pytest.mark.parametrize("size", [MIN_BYTES, MIN_THREAD_BYTES, 1_000_000])
async def test_a_large_answer_is_compressed_for_a_client_that_accepts_it(api: httpx.AsyncClient, size: int) -> None:
    plain, answer = await get(api, f"/text?size={size}", None), await get(api, f"/text?size={size}")
    sent = answer.extensions["sent"]
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(sent) == plain.extensions["sent"]
    assert len(sent) < len(plain.extensions["sent"]) / 2
    assert answer.headers["content-length"] == str(len(sent))
    assert "content-encoding" not in plain.headers
    assert {headers["vary"] for headers in (plain.headers, answer.headers)} == {"Accept-Encoding"}
    assert {headers["etag"] for headers in (plain.headers, answer.headers)} == {'"7"'}


async def test_head_has_the_headers_of_get(api: httpx.AsyncClient) -> None:
    got, head = await get(api, f"/text?size={MIN_BYTES}"), await get(api, f"/text?size={MIN_BYTES}", method="HEAD")
    assert head.headers == got.headers


@pytest.mark.parametrize(
    "query",
    [
        f"size={MIN_BYTES - 1}",
        f"size={MIN_BYTES}&type=image/png",
        "size=9000&type=text/event-stream",
        "size=90000&encoded=1",
    ],
)
async def test_answers_that_gain_nothing_from_gzip_are_sent_unchanged(api: httpx.AsyncClient, query: str) -> None:
    answer = await get(api, f"/text?{query}")
    assert answer.headers.get("content-encoding") in (None, "br")
    assert "vary" not in answer.headers
    assert json.loads(answer.extensions["sent"])


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/html; charset=utf-8", "text/javascript"])
async def test_ndjson_html_and_javascript_are_compressed(api: httpx.AsyncClient, media_type: str) -> None:
    answer = await get(api, f"/text?size={MIN_BYTES}&type={media_type}")
    assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_large_file_is_sent_uncompressed(api: httpx.AsyncClient, method: str) -> None:
    answer = await get(api, "/file", method=method)
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == FILE.stat().st_size
    assert answer.extensions["sent"] == (FILE.read_bytes() if method == "GET" else b"")


async def test_a_stream_is_never_compressed(api: httpx.AsyncClient) -> None:
    answer = await get(api, "/stream")
    assert "content-encoding" not in answer.headers
    assert answer.extensions["sent"].startswith(b"data: 1\n\n")


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        ("gzip", True),
        ("GZIP, deflate, br", True),
        ("x-gzip", True),
        ("*", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip ; q=0.5", True),
        ("gzip;q=1.000,identity;q=1", True),
        ("identity;q=0", False),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("gzip;q=0.5, identity;q=0.8", False),
        ("identity, gzip;q=0.9", False),
        ("gzip;q=2", False),
        ("gzip;q=nan", False),
        ("gzip;level=9", False),
        ("notgzip", False),
    ],
)
def test_gzip_needs_at_least_the_quality_of_identity(sent: str, *, accepted: bool) -> None:
    assert accepts_gzip([(b"accept-encoding", sent.encode())]) is accepted


def test_several_accept_encoding_headers_are_read_as_one_list() -> None:
    assert accepts_gzip([(b"accept-encoding", b"br"), (b"accept-encoding", b"gzip")])
    assert not accepts_gzip([(b"accept", b"gzip")])


async def test_the_event_loop_runs_while_eight_megabytes_are_compressed(api: httpx.AsyncClient) -> None:
    reading = asyncio.create_task(get(api, f"/text?size={len(TEXT)}"))
    turns, longest = 0, 0.0
    while not reading.done():
        started_at = time.thread_time()
        await asyncio.sleep(0)
        turns, longest = turns + 1, max(longest, time.thread_time() - started_at)
    assert len((await reading).extensions["sent"]) < 6_000_000
    assert turns > 100
    assert longest < 0.05, "seconds of CPU in one turn"


async def test_one_answer_is_compressed_at_a_time(connections: Connections) -> None:
    async with connections.compression(600_000):
        waiting = asyncio.create_task(take_turn(connections, 600_000))
        await asyncio.sleep(0)
        assert connections.unread_bytes() == 1_200_000
        with pytest.raises(ApiError, match="Too many large answers"):
            async with connections.large_answer("acme"):
                pass
        assert not waiting.done()
    await waiting
    assert connections.unread_bytes() == 0
    async with connections.large_answer("acme"):
        pass


async def take_turn(connections: Connections, size: int) -> None:
    async with connections.compression(size):
        pass
