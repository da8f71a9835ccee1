"""nginx with our configuration, in front of two small servers."""

import gzip
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infrastructure.http.body import MAX_READ_BYTES
from infrastructure.http.connections import Limits
from infrastructure.http.errors import ApiError
from infrastructure.http.served_paths import SERVED
from tests.deploy.nginx import CONFIG, NGINX, NO_NGINX, running_nginx

pytestmark = pytest.mark.skipif(NGINX is None, reason=NO_NGINX)


class Side(ThreadingHTTPServer):
    """A server behind the gateway. It answers with its name and the request. `ready`: the status of `/health/ready`."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.name = name
        self.ready = 200
        self.requests: list[str] = []
        self.stream_continues = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Side

    def handle_one(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/stream":
            self._stream()
        elif self.headers.get("Upgrade") == "websocket":
            self._echo()
        elif self.path == "/drop":
            self.close_connection = True
        elif self.path == "/health/ready":
            self._send(self.server.ready, {"side": self.server.name})
        else:
            headers = {key.lower(): value for key, value in self.headers.items()}
            seen = {"side": self.server.name, "path": self.path, "bytes": len(body), "headers": headers}
            self._send(413 if self.path == "/413" else 200, seen)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PATCH = do_BREW = handle_one  # noqa: N815  # names of http.server

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Request-ID", "req_of_the_application")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            self.server.stream_continues.wait(5)
        self.wfile.write(b"0\r\n\r\n")

    def _echo(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while data := self.connection.recv(1000):
            self.connection.sendall(data)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parent class has this name
        pass


@dataclass
class Gateway:
    port: int
    commands: Side
    queries: Side
    config: Path
    log: Path
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def open(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.connections.append(connection)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        return connection.getresponse()

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        response = self.open(method, path, body, **headers)
        content = response.read()
        fields = {key.lower(): value for key, value in response.getheaders()}
        return response.status, fields, json.loads(content) if content else None


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    commands, queries = Side("commands"), Side("queries")
    ports = (side.server_address[1] for side in (commands, queries))
    with running_nginx(tmp_path, *ports) as port:
        running = Gateway(port, commands, queries, tmp_path / "gateway.conf", tmp_path / "access.log")
        try:
            yield running
        finally:
            for connection in running.connections:
                connection.close()
            for side in (commands, queries):
                side.stream_continues.set()
                side.close()


def test_nginx_accepts_the_configuration(gateway: Gateway) -> None:
    assert NGINX is not None
    ran = subprocess.run(
        [NGINX, "-t", "-c", str(gateway.config), "-e", "stderr"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "warn" not in ran.stderr


@pytest.mark.parametrize(
    ("method", "side"),
    [("GET", "queries"), ("POST", "commands"), ("DELETE", "commands"), ("PATCH", "commands"), ("BREW", "commands")],
)
def test_reads_go_to_the_query_side_and_other_methods_to_the_command_side(
    gateway: Gateway, method: str, side: str
) -> None:
    status, _, body = gateway.request(method, "/v1/conversations/conv_1/items?limit=2&after=a%20b")
    assert (status, body["side"], body["path"]) == (200, side, "/v1/conversations/conv_1/items?limit=2&after=a%20b")


def test_head_goes_to_the_query_side_and_has_no_body(gateway: Gateway) -> None:
    status, headers, body = gateway.request("HEAD", "/v1/conversations/conv_1")
    assert (status, body, int(headers["content-length"]) > 0) == (200, None, True)
    assert (gateway.queries.requests, gateway.commands.requests) == (["HEAD /v1/conversations/conv_1"], [])


def test_a_websocket_goes_to_the_command_side(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(
            b"GET /v1/responses HTTP/1.1\r\nHost: here\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 101 ")
        for data in (b"\x81\x85from", b"the client"):
            client.sendall(data)
            assert client.recv(1000) == data
    assert (gateway.commands.requests, gateway.queries.requests) == (["GET /v1/responses"], [])


@pytest.mark.parametrize(
    ("method", "headers", "side"),
    [
        ("GET", {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}, "queries"),
        ("GET", {"Upgrade": "websocket"}, "queries"),  # without `Connection: Upgrade`, this is no upgrade request
        ("POST", {"Connection": "Upgrade", "Upgrade": "websocket"}, "commands"),
    ],
)
def test_only_a_websocket_upgrade_by_get_is_passed_on(
    gateway: Gateway, method: str, headers: dict[str, str], side: str
) -> None:
    status, _, body = gateway.request(method, "/v1/responses", None, **headers)
    assert (status, body["side"]) == (200, side)
    assert "upgrade" not in body["headers"]


def test_openapi_json_covers_both_sides(gateway: Gateway) -> None:
    assert gateway.request("GET", "/docs")[2]["side"] == "queries"
    status, _, body = gateway.request("GET", "/openapi.json")
    assert status == 200
    assert set(body["paths"]["/v1/conversations"]) >= {"get", "post"}


@pytest.mark.parametrize("path", ["/_commands_ready", "/_malformed"])
def test_an_internal_path_is_a_404_in_the_shape_of_our_errors(gateway: Gateway, path: str) -> None:
    status, headers, body = gateway.request("GET", path, X_Request_ID="req_1")
    assert status == 404
    assert body["error"] | {"message": ""} == msgspec.to_builtins(ApiError(404, "", code="unknown_url").body().error)
    assert (headers["x-request-id"], headers["x-should-retry"]) == ("req_1", "false")
    assert gateway.queries.requests + gateway.commands.requests == []


def test_openapi_json_is_compressed_for_clients_that_accept_gzip(gateway: Gateway) -> None:
    plain, response = gateway.open("GET", "/openapi.json"), gateway.open("GET", "/openapi.json", Accept_Encoding="gzip")
    assert (response.getheader("Content-Encoding"), response.getheader("Vary")) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(response.read()) == plain.read()


def test_the_gateway_is_live_even_when_neither_side_is_ready(gateway: Gateway) -> None:
    gateway.commands.ready = gateway.queries.ready = 503
    status, _, body = gateway.request("GET", "/health/live")
    assert (status, body) == (200, {"status": "live"})


@pytest.mark.parametrize(
    ("commands", "queries", "status", "side"),
    [(200, 200, 200, "queries"), (503, 200, 503, "commands"), (200, 503, 503, "queries"), (503, 503, 503, "commands")],
)
def test_the_gateway_is_ready_only_if_both_sides_are_ready(
    gateway: Gateway, commands: int, queries: int, status: int, side: str
) -> None:
    gateway.commands.ready, gateway.queries.ready = commands, queries
    answer = gateway.request("GET", "/health/ready")
    assert (answer[0], answer[2]) == (status, {"side": side})


@pytest.mark.parametrize("down", ["commands", "queries", "both"])
def test_readiness_is_503_when_a_side_is_down(gateway: Gateway, down: str) -> None:
    for side in (gateway.commands, gateway.queries):
        if down in (side.name, "both"):
            side.close()
    status, headers, body = gateway.request("GET", "/health/ready")
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "service_unavailable", "1")


@pytest.mark.parametrize(("method", "down"), [("GET", "queries"), ("POST", "commands")])
def test_a_request_to_a_side_that_is_down_is_a_503(gateway: Gateway, method: str, down: str) -> None:
    getattr(gateway, down).close()
    status, headers, body = gateway.request(method, "/v1/conversations", X_Request_ID="req_1")
    assert (status, body["error"]["type"]) == (503, ApiError(503, "").body().error.type)
    assert headers["x-should-retry"] == "true"
    assert (headers["retry-after"], headers["x-request-id"], headers["content-type"]) == (
        "1",
        "req_1",
        "application/json",
    )
    assert gateway.request("POST" if method == "GET" else "GET", "/v1/conversations")[0] == 200


def test_headers_pass_unchanged_in_both_directions(gateway: Gateway) -> None:
    _, headers, body = gateway.request(
        "POST",
        "/v1/conversations",
        b"{}",
        X_Request_ID="req_1",
        Idempotency_Key="k",
        If_Match='"3"',
        Authorization="B x",
    )
    seen = body["headers"]
    assert (seen["x-request-id"], seen["idempotency-key"], seen["if-match"]) == ("req_1", "k", '"3"')
    assert (seen["authorization"], seen["host"]) == ("B x", f"127.0.0.1:{gateway.port}")
    assert headers["x-request-id"] == "req_of_the_application"


def test_a_stream_reaches_the_client_event_by_event(gateway: Gateway) -> None:
    response = gateway.open("GET", "/stream")
    assert response.read(9) == b"data: 1\n\n"
    gateway.queries.stream_continues.set()
    assert response.read() == b"data: 2\n\n"


def test_a_command_whose_connection_breaks_is_not_retried(gateway: Gateway) -> None:
    status, headers, body = gateway.request("POST", "/drop", b"{}")
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (503, "service_unavailable", "false")
    assert "retry-after" not in headers
    assert "Outcome unknown" in body["error"]["message"]
    assert gateway.commands.requests == ["POST /drop"]


@pytest.mark.parametrize("header", ["Idempotency_Key", "If_Match"])
def test_a_command_that_is_safe_to_repeat_may_be_retried_by_its_client(gateway: Gateway, header: str) -> None:
    status, headers, _ = gateway.request("POST", "/drop", b"{}", **{header: '"1"'})
    assert (status, headers["x-should-retry"], headers["retry-after"]) == (503, "true", "1")


def test_a_large_body_and_a_413_of_the_application_are_passed_on(gateway: Gateway) -> None:
    body = b"x" * (20 * 1024 * 1024)
    assert gateway.request("POST", "/v1/import", body)[2]["bytes"] == len(body)
    status, _, answer = gateway.request("POST", "/413", b"{}")
    assert (status, answer["side"]) == (413, "commands")


def test_a_body_that_is_too_large_gets_a_413_in_our_error_shape(
    gateway: Gateway,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    gateway.connections.append(connection)
    connection.putrequest("POST", "/v1/conversations")
    connection.putheader("Content-Length", str(MAX_READ_BYTES + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.getheader("X-Should-Retry")) == (413, "false")
    error = json.loads(response.read())["error"]
    assert error | {"message": ""} == msgspec.to_builtins(ApiError(413, "", code="request_too_large").body().error)
    assert gateway.commands.requests == []


def test_an_import_may_be_larger_than_any_other_body(gateway: Gateway) -> None:
    body = b"x" * (MAX_READ_BYTES + 1)
    assert gateway.request("POST", "/v1/import", body)[2]["bytes"] == len(body)


def test_the_access_log_is_json_and_hides_unknown_paths_and_query_strings(gateway: Gateway) -> None:
    conversation = f"/v1/conversations/conv_{'0' * 32}"
    gateway.request("GET", f"{conversation}?q=hunter2")
    gateway.request("POST", "/v1/responses/hunter2")
    deadline = time.monotonic() + 5  # nginx logs a request after its answer
    while gateway.log.read_text().count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert [(line["url.path"], line["labels.side"]) for line in lines] == [
        (conversation, "queries"),
        ("*", "commands"),
    ]
    assert lines[0]["http.response.status_code"] == 200
    assert lines[0]["trace.id"] == "req_of_the_application"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", lines[0]["@timestamp"])
    assert "hunter2" not in gateway.log.read_text()


def test_the_access_log_shows_served_paths_but_no_model_ids_or_unknown_paths() -> None:
    [pattern] = re.findall(r'"~(\S+)" \$uri;', CONFIG.read_text())
    paths = [re.sub(r"\{\w+\}", f"item_{'0' * 32}", path) for path in SERVED if ":path}" not in path]
    paths.append(f"/v1/chat/completions/chatcmpl-{'0' * 32}")
    assert [path for path in [*paths, "/"] if re.search(pattern, path) is None] == []
    assert [path for path in ("/v1/models/gpt-5", "/hunter2", "/v1/secret") if re.search(pattern, path)] == []


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x", 501, "method_not_implemented"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x", 400, "malformed_request"),
        (b"GET /\0 HTTP/1.1\r\nHost: x", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000, 400, "malformed_request"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x", 400, "malformed_request"),
    ],
    ids=["connect", "options *", "nul in path", "nul in header", "long header", "long path"],
)
def test_errors_of_nginx_itself_have_our_error_shape(
    gateway: Gateway, request_head: bytes, status: int, code: str
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(request_head + b"\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (status, code)
        assert response.getheader("X-Request-ID")
        assert response.getheader("X-Should-Retry") == "false"


@pytest.mark.parametrize("path", ["http://elsewhere/v1/x?a=b", "/" + "x" * 60_000])
def test_targets_in_absolute_form_and_long_paths_are_passed_on(gateway: Gateway, path: str) -> None:
    status, _, body = gateway.request("GET", path)
    assert (status, body["path"]) == (200, path.removeprefix("http://elsewhere"))


def test_nginx_has_the_time_limits_of_the_applications(gateway: Gateway) -> None:
    limits = Limits()
    text = CONFIG.read_text()
    for name, seconds in (
        ("keepalive_timeout", limits.idle_seconds),
        ("client_header_timeout", limits.head_seconds),
        ("client_body_timeout", limits.body_seconds),
        ("send_timeout", limits.write_seconds),
    ):
        assert re.search(rf"^    {name} +{seconds:.0f}s;$", text, re.MULTILINE), name
