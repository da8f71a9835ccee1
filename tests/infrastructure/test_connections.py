"""How long the server waits, when large answers get a turn, and which heads of requests the server accepts."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from infrastructure.http.connections import Connections, Limits
from infrastructure.http.errors import ApiError
from infrastructure.http.protocol import MAX_HEAD_BYTES, bounded_protocol

SHORT = Limits(
    idle_seconds=0.5,
    head_seconds=0.5,
    body_seconds=0.5,
    write_seconds=0.5,
    crowded_write_seconds=0.1,
    max_unread_bytes=20_000_000,
    check_seconds=0.05,
)
LARGE = b"x" * 30_000_000
"""More than the socket buffers of server and client hold together."""


class Server:
    """An app on a real server.

    `ended` gets `disconnected` or `stream` when a request to `echo` or `/stream` is cut off.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.port = 0
        self.reads_on = threading.Event()
        self.ended: list[str] = []
        everything = ["GET", "POST", "OPTIONS"]
        self.app = Starlette(
            routes=[
                Route("/large", lambda _: Response(LARGE)),
                Route("/stream", self.stream),
                Route("/slow", self.slow, methods=["POST"]),
                Route("/{path:path}", self.echo, methods=everything),
            ],
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        yield

    async def take_turn(self) -> None:
        """Returns when a large answer may be made."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(take_turn(self.connections), self.loop))

    async def echo(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            self.ended.append("disconnected")
            raise
        upgrade = request.headers.get("upgrade")
        return JSONResponse(
            {"path": request.scope["path"], "query": request.url.query, "bytes": len(body), "upgrade": upgrade},
            headers={"hosts": ", ".join(request.headers.getlist("host"))},
        )

    async def slow(self, request: Request) -> Response:
        """Waits for `reads_on` after each chunk of the body."""
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            await asyncio.to_thread(self.reads_on.wait)
        return JSONResponse({"bytes": size})

    async def stream(self, _: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 100_000
                    await asyncio.sleep(0)
            finally:
                self.ended.append("stream")

        return StreamingResponse(chunks())


@asynccontextmanager
async def served(limits: Limits = SHORT) -> AsyncIterator[Server]:
    """Serves with uvloop, as in production."""
    server = Server(Connections(limits))
    http = bounded_protocol(server.connections)
    config = uvicorn.Config(
        server.app, port=0, http=http, loop="uvloop", log_config=None, lifespan="on", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    await eventually(lambda: running.started)
    server.port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.reads_on.set()
        running.should_exit = True
        await asyncio.to_thread(thread.join)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with served() as server:
        yield server


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        transport = cast("asyncio.Transport", writer.transport)
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, json.loads(body) if body else None

    async def ended(self) -> bytes:
        """Waits for the end of the connection. Returns the bytes that were not read before."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def client_of(server: Server, receive_buffer: int | None = None) -> AsyncIterator[Client]:
    """Connects to the server.

    `receive_buffer`: in bytes. With a small buffer, the server soon notices a slow client.
    """
    connected = socket.socket()
    if receive_buffer is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=connected, limit=2**16)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0.01)


def assert_error(answer: tuple[int, dict[str, str], Any], status: int, code: str) -> None:
    assert (answer[0], answer[2]["error"]["code"]) == (status, code)
    assert set(answer[2]["error"]) == {"message", "type", "param", "code"}
    assert answer[1]["x-request-id"]
    assert answer[1]["connection"] == "close"


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"], ids=["new", "line break", "after a request"]
)
async def test_an_idle_connection_is_closed(server: Server, sent: bytes) -> None:
    async with client_of(server) as client:
        client.send(sent)
        if sent.startswith(b"GET"):
            assert (await client.answer())[0] == 200
        assert await client.ended() == b""


async def test_line_breaks_do_not_keep_a_connection_open(server: Server) -> None:
    async with client_of(server) as client:
        client.send(b"\r\n")
        await asyncio.sleep(0.6 * SHORT.idle_seconds)
        client.send(b"\r\n")
        closing = asyncio.create_task(client.ended())
        await asyncio.sleep(0.8 * SHORT.idle_seconds)
        assert closing.done()


async def test_a_head_that_does_not_end_in_time_is_a_408(server: Server) -> None:
    async with client_of(server) as client:
        client.send(b"GET / HTTP/1.1\r\n")

        async def send_headers() -> None:
            while True:
                client.send(b"a: b\r\n")
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(send_headers())
        assert_error(await client.answer(), 408, "request_timeout")
        sending.cancel()


async def test_a_body_that_stops_arriving_is_a_408(server: Server) -> None:
    async with client_of(server) as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        assert_error(await client.answer(), 408, "request_timeout")
        assert await client.ended() == b""
    await eventually(lambda: server.ended == ["disconnected"])


async def test_a_body_may_take_longer_while_more_of_it_arrives(server: Server) -> None:
    async with client_of(server) as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            client.send(b"x")
            await asyncio.sleep(SHORT.body_seconds / 4)
        assert (await client.answer())[2]["bytes"] == 10


async def test_a_body_that_the_application_reads_late_does_not_time_out(server: Server) -> None:
    size = 3_000_000
    async with client_of(server) as client:
        client.send(b"POST /slow HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await asyncio.sleep(3 * SHORT.body_seconds)
        server.reads_on.set()
        assert (await client.answer())[2]["bytes"] == size


@pytest.mark.parametrize("path", [b"/large", b"/stream"])
async def test_a_client_that_does_not_read_its_answer_is_disconnected(server: Server, path: bytes) -> None:
    with capture_logs() as logged:
        async with client_of(server, receive_buffer=4096) as client:
            client.pause_reading()
            client.send(b"GET %s HTTP/1.1\r\n\r\n" % path)
            await eventually(lambda: [line["event"] for line in logged] == ["connection_aborted"])
            if path == b"/stream":
                await eventually(lambda: server.ended == ["stream"])
            client.resume_reading()
            assert len(await client.ended()) < len(LARGE)


async def test_a_client_that_reads_slowly_gets_its_whole_answer(server: Server) -> None:
    async with client_of(server, receive_buffer=65536) as client:
        client.send(b"GET /large HTTP/1.1\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        size, loop = 0, asyncio.get_running_loop()
        until = loop.time() + 3 * SHORT.write_seconds
        while size < len(LARGE):
            chunk = await client.reader.read(200_000)
            assert chunk, f"the answer ended after {size} bytes"
            size += len(chunk)
            if loop.time() < until:
                await asyncio.sleep(SHORT.write_seconds / 10)
        assert size == len(LARGE)


async def test_an_incomplete_second_request_does_not_cut_off_the_first_answer(server: Server) -> None:
    async with client_of(server) as client:
        client.send(b"POST /slow HTTP/1.1\r\nContent-Length: 1\r\n\r\nxPOST / HT")
        await asyncio.sleep(3 * SHORT.head_seconds)
        server.reads_on.set()
        assert (await client.answer())[2] == {"bytes": 1}


async def test_a_large_answer_waits_until_clients_have_read_other_answers() -> None:
    limits = Limits(max_unread_bytes=20_000_000, check_seconds=0.05)
    async with served(limits) as server, client_of(server, receive_buffer=262_144) as client:
        client.pause_reading()
        client.send(b"GET /large HTTP/1.1\r\n\r\n")
        await eventually(lambda: server.connections.unread_bytes() > limits.max_unread_bytes)
        turn = asyncio.create_task(server.take_turn())
        await asyncio.sleep(3 * limits.check_seconds)
        assert not turn.done()
        client.resume_reading()
        await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readexactly(len(LARGE))
        await asyncio.wait_for(turn, 5)


async def take_turn(connections: Connections) -> None:
    async with connections.large_answer("acme"):
        pass


async def test_slow_clients_are_disconnected_sooner_while_much_is_unread() -> None:
    limits = Limits(write_seconds=60, crowded_write_seconds=0.2, max_unread_bytes=20_000_000, check_seconds=0.05)
    async with served(limits) as server, client_of(server, receive_buffer=4096) as client:
        client.pause_reading()
        client.send(b"GET /large HTTP/1.1\r\n\r\n")
        await eventually(lambda: server.connections.unread_bytes() > limits.max_unread_bytes)
        await asyncio.wait_for(server.take_turn(), 5)


async def test_a_large_answer_that_gets_no_turn_in_time_is_a_503() -> None:
    connections = Connections(Limits(large_answers=1, large_answer_wait_seconds=0.05))
    async with connections.large_answer("acme"):
        with pytest.raises(ApiError) as refused:
            await take_turn(connections)
    assert (refused.value.status, refused.value.code, refused.value.retry) == (503, "too_many_large_answers", True)
    await take_turn(connections)


async def test_the_size_of_a_head_is_limited(server: Server) -> None:
    body = b"x" * (3 * MAX_HEAD_BYTES)
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n" % len(body)
    room = MAX_HEAD_BYTES - 200
    async with client_of(server) as client:
        client.send(head + b"a: %s\r\n\r\n" % (b"x" * room) + body)
        assert (await client.answer())[2]["bytes"] == len(body)
        client.send(head + b"a: %s\r\n\r\n" % (b"x" * MAX_HEAD_BYTES) + body)
        assert_error(await client.answer(), 400, "malformed_request")


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\na: "])
async def test_a_head_that_is_too_large_is_refused_before_its_end(server: Server, start: bytes) -> None:
    async with client_of(server) as client:
        client.send(start)
        await asyncio.sleep(0.1)  # the size of an unfinished head is counted from its second chunk on
        client.send(b"x" * (MAX_HEAD_BYTES + 1))
        assert_error(await client.answer(), 400, "malformed_request")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"Upgrade", b"Upgrade, close"])
async def test_the_body_of_a_request_that_asks_for_an_upgrade_is_kept(
    server: Server, connection: bytes, version: bytes
) -> None:
    request = (
        b"POST /a?b=c HTTP/%s\r\nConnection: %s\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
        b"Content-Length: 5\r\n\r\n" % (version, connection)
    )
    expected = {"path": "/a", "query": "b=c", "bytes": 5, "upgrade": None}
    async with client_of(server) as client:
        client.send(request + b"hello")
        assert (await client.answer())[2] == expected
    async with client_of(server) as client:
        for chunk in (request[:30], request[30:-1], request[-1:], b"he", b"llo"):
            client.send(chunk)
            await asyncio.sleep(0.01)
        assert (await client.answer())[2] == expected


async def test_requests_for_an_upgrade_may_follow_each_other(server: Server) -> None:
    request = b"POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with client_of(server) as client:
        client.send(3000 * request)
        for _ in range(3000):
            assert (await client.answer())[2]["bytes"] == 3


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://elsewhere/v1/x?a=b", "/v1/x", "a=b"),
        (b"http://elsewhere", "/", ""),
        (b"http://elsewhere?a=b", "/", "a=b"),
        (b"/" + b"x" * 60_000, "/" + "x" * 60_000, ""),
        (b"/%00%0d%1b", "/\0\r\x1b", ""),
    ],
    ids=["absolute", "absolute without a path", "absolute with a query", "long", "escaped control characters"],
)
async def test_absolute_long_and_escaped_request_targets_are_served(
    server: Server, target: bytes, path: str, query: str
) -> None:
    async with client_of(server) as client:
        client.send(b"GET %s HTTP/1.1\r\nHost: here\r\n\r\n" % target)
        status, _, answer = await client.answer()
        assert (status, answer["path"], answer["query"]) == (200, path, query)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://elsewhere:81/v1/x", "elsewhere:81"),
        (b"http://elsewhere?a=/b", "elsewhere"),
        (b"http://here@elsewhere/", "here@elsewhere"),
        (b"https://[::1]:8000", "[::1]:8000"),
        (b"/http://elsewhere/", "here, there"),
    ],
)
async def test_only_an_absolute_target_replaces_the_host_header(server: Server, target: bytes, host: str) -> None:
    async with client_of(server) as client:
        client.send(b"GET %s HTTP/1.1\r\nHost: here\r\nA: b\r\nHOST: there\r\n\r\n" % target)
        status, headers, _ = await client.answer()
        assert (status, headers["hosts"]) == (200, host)


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (b"BREW /v1/x", 501, "method_not_implemented"),
        (b"CONNECT example.org:80", 501, "method_not_implemented"),
        (b"get /v1/x", 400, "malformed_request"),
        (b"GET *", 400, "malformed_request"),
        (b"GET v1/x", 400, "malformed_request"),
        (b"GET /a b", 400, "malformed_request"),
        (b"GET /\0", 400, "malformed_request"),
        (b"GET /\x1b[2J", 400, "malformed_request"),
        ("GET /é".encode(), 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\nB: ", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nA: b\x1b\r\nB: ", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nA\0: b\r\nB: ", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\0\x01", 400, "malformed_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM", 400, "malformed_request"),
    ],
)
async def test_malformed_requests_and_unknown_methods_get_a_json_error(
    server: Server, request_line: bytes, status: int, code: str
) -> None:
    async with client_of(server) as client:
        client.send(request_line + b" HTTP/1.1\r\nHost: here\r\n\r\n")
        assert_error(await client.answer(), status, code)
        assert await client.ended() == b""
