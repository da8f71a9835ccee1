"""WebSockets: which handshakes are refused, how messages are sent, and what closes a socket."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from infrastructure.http.app import make_app
from infrastructure.http.connections import Connections, Limits
from infrastructure.http.door import NoLogin
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.web_pages import WebPages
from infrastructure.http.websocket_protocol import bounded_websocket
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings

SHORT = Limits(body_seconds=0.2, write_seconds=0.4, crowded_write_seconds=0.4, check_seconds=0.05)
MAX_MESSAGE_BYTES = 1_000_000
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Server:
    """An app with two sockets. `/flood` sends without end.

    `ended`: the close codes of ended sockets.
    """

    def __init__(self) -> None:
        self.port = 0
        self.ended: list[int] = []
        self.metrics = Metrics()
        routes = [WebSocketRoute("/echo", self.echo), WebSocketRoute("/flood", self.flood)]
        self.app = make_app(
            "Sockets",
            [APIRouter()],
            sockets=routes,
            lifespan=_lifespan,
            metrics=self.metrics,
            authenticator=NoLogin(),
            limiter=Limiter(Settings(), self.metrics),
            web_pages=WebPages(has_login=False, allowed_hosts=["here"]),
        )
        self.connections = Connections(SHORT)

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**message, "type": "websocket.send"})
        self.ended.append(message["code"])

    async def flood(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("x" * 100_000)
        except WebSocketDisconnect as error:
            self.ended.append(error.code)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    yield


@pytest.fixture(scope="module")
def server() -> Any:
    server = Server()
    config = uvicorn.Config(
        server.app,
        port=0,
        http=bounded_protocol(server.connections),
        ws=bounded_websocket(server.connections),
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=0.3,
        ws_ping_timeout=0.3,
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        thread.join(0.02)
    server.port = running.servers[0].sockets[0].getsockname()[1]
    yield server
    running.should_exit = True
    thread.join()


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - earlier messages are ignored
            while True:
                await client.recv()
    assert closed.value.rcvd is not None, "the connection was cut off without a reason"
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def handshake(server: Server, path: str, **changed: Any) -> httpx.Response:
    headers = UPGRADE | {name.replace("_", "-"): value for name, value in changed.items()}
    sent = {name: value for name, value in headers.items() if value is not None}
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{server.port}{path}", headers=sent)


@pytest.mark.parametrize(
    ("path", "changed", "status", "code", "says"),
    [
        ("/nowhere", {}, 404, "unknown_url", "serves"),
        ("/echo", {"Sec_WebSocket_Version": "8"}, 426, "invalid_handshake", "version 13"),
        ("/echo", {"Sec_WebSocket_Version": None}, 426, "invalid_handshake", "version 13"),
        ("/echo", {"Sec_WebSocket_Key": None}, 400, "invalid_handshake", "Sec-WebSocket-Key"),
        ("/echo", {"Sec_WebSocket_Key": "short"}, 400, "invalid_handshake", "Sec-WebSocket-Key"),
        ("/echo", {"Sec_WebSocket_Key": b"dGhlIHNhbXBs\xf8SBub25jZQ=="}, 400, "invalid_handshake", "Sec-WebSocket-Key"),
        ("/echo", {"X_Long": "x" * 20_000}, 400, "malformed_request", "head"),
        # Ordinary GETs, at a path without a route for GET.
        ("/echo", {"Upgrade": "h2c"}, 404, "unknown_url", "served"),
        ("/echo", {"Connection": "keep-alive"}, 404, "unknown_url", "served"),
    ],
)
async def test_a_handshake_that_cannot_be_accepted_is_refused_with_an_error(
    server: Server, path: str, changed: dict[str, Any], status: int, code: str, *, says: str
) -> None:
    with capture_logs() as logs:
        answer = await handshake(server, path, **changed)
    assert {line["event"] for line in logs} <= {"request"}
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert says in error["message"]
    assert answer.headers["x-request-id"]
    assert answer.headers.get("sec-websocket-version") == ("13" if status == 426 else None)


async def test_an_accepted_handshake_is_logged_when_the_socket_ends(server: Server) -> None:
    with capture_logs() as logs:
        async with connect(f"{server.url}/echo", additional_headers={"X-Request-ID": "mine"}) as client:
            assert client.response is not None
            assert client.response.headers["x-request-id"] == "mine"
        async with asyncio.timeout(5):
            while not logs:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)
    assert (logs[0]["method"], logs[0]["path"], logs[0]["status"]) == (
        "GET",
        "/*",
        101,
    )  # `echo` is no word of the API
    assert b'http_requests_total{method="GET",route="/echo",status="101"}' in server.metrics.render()[0]


async def test_a_post_or_head_that_asks_for_a_websocket_is_an_ordinary_request(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        for method in ("POST", "HEAD"):
            answer = await client.request(method, f"http://127.0.0.1:{server.port}/docs", headers=UPGRADE)
            assert answer.status_code == {"POST": 405, "HEAD": 200}[method]


async def test_text_bytes_and_fragments_are_echoed(
    server: Server,
) -> None:
    async with connect(f"{server.url}/echo", compression="deflate") as client:
        assert client.protocol.extensions == []
        for text in ("", "ä", "x" * MAX_MESSAGE_BYTES):
            await client.send(text)
            assert await client.recv() == text
        await client.send(iter(["in ", "three ", "fragments"]))
        assert await client.recv() == "in three fragments"
        await client.send(b"\x00\xff")
        assert await client.recv() == b"\x00\xff"


async def test_a_message_that_arrives_together_with_the_handshake_is_read(server: Server) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    frame = Frame(Opcode.TEXT, b"early").serialize(mask=True)
    writer.write(f"GET /echo HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode() + frame)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await reader.readexactly(7) == b"\x81\x05early"
    writer.close()


async def test_a_too_large_message_closes_the_socket_with_code_1009(server: Server) -> None:
    async with connect(f"{server.url}/echo", max_size=None) as client:
        await client.send("x" * 10_000_000)
        error = json.loads(await client.recv())
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", 413, "request_too_large")
        assert (await closed_with(client))[0] == 1009
    async with connect(f"{server.url}/echo", max_size=None) as client:  # each fragment is small enough
        with contextlib.suppress(ConnectionClosed):
            await client.send("x" * 100_000 for _ in range(100))
        assert json.loads(await client.recv())["status"] == 413
        assert (await closed_with(client))[0] == 1009


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True), 1007),
        (b"\xc1\x80mask", 1002),
        (Frame(Opcode.CONT, b"of nothing").serialize(mask=True), 1002),
        (Frame(Opcode.TEXT, b"not masked").serialize(mask=False), 1002),
        (struct.pack("!BB", 0x83, 0x80) + b"mask", 1002),  # an unknown opcode
    ],
    ids=["not UTF-8", "compressed", "continues nothing", "not masked", "unknown opcode"],
)
async def test_a_frame_that_breaks_the_protocol_closes_the_socket_with_a_reason(
    server: Server, frame: bytes, code: int
) -> None:
    async with connect(f"{server.url}/echo") as client:
        client.transport.write(frame)
        closed = await closed_with(client)
    assert closed[0] == code
    assert closed[1]


@pytest.mark.parametrize("fragmented", [False, True])
async def test_a_message_whose_rest_does_not_arrive_closes_the_socket(server: Server, *, fragmented: bool) -> None:
    async with connect(f"{server.url}/echo") as client:
        frame = Frame(Opcode.TEXT, b"x" * 1000, fin=not fragmented).serialize(mask=True)
        client.transport.write(frame if fragmented else frame[:-1])
        assert await closed_with(client) == (1002, "The rest of a message did not arrive in time.")


async def test_an_unused_socket_stays_open_while_its_client_answers_pings(server: Server) -> None:
    async with connect(f"{server.url}/echo") as client:
        await asyncio.sleep(1)  # three times the wait for a pong
        await client.send("still here")
        assert await client.recv() == "still here"


async def test_a_client_that_answers_no_ping_or_reads_nothing_is_disconnected(server: Server) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    server.ended.clear()
    with socket.socket() as mute, socket.socket() as flooded:
        flooded.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for client, path in ((mute, "/echo"), (flooded, "/flood")):
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode())
        async with asyncio.timeout(10):
            while len(server.ended) < 2:
                assert server.connections.unread_bytes() < 3_000_000
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("frame", [b"\x88\x80mask", b"\x83\x80mask"], ids=["closes", "breaks the protocol"])
async def test_an_endless_app_stops_when_its_socket_is_closed(server: Server, frame: bytes) -> None:
    server.ended.clear()
    client = await connect(f"{server.url}/flood")
    client.transport.write(frame)
    async with asyncio.timeout(10):
        while not server.ended:  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0.02)
    async with connect(f"{server.url}/echo") as other:
        await other.send("still served")
        assert await other.recv() == "still served"
    client.transport.abort()


async def test_a_client_that_disconnects_before_it_is_accepted_causes_no_error(server: Server) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    with capture_logs() as logs:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(f"GET /flood HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode() + b"\x88\x80mask")
        async with asyncio.timeout(10):
            while len(logs) < 20:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.02)
    assert {line["event"] for line in logs} == {"request"}


async def test_an_unknown_path_does_not_open_a_socket(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{server.url}/v1/conversations")
    assert refused.value.response.status_code == 404
