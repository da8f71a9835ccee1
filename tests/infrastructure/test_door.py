"""Every route except the open paths needs a valid credential. The tests need no database."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import jwt
import pytest
from openai import AsyncOpenAI, AuthenticationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from structlog.testing import capture_logs

from commands.main import create_app as create_command_app
from infrastructure.access.principal import Principal
from infrastructure.access.refusals import CannotCheckCredential, InvalidCredential
from infrastructure.http.connections import Connections
from infrastructure.http.door import AccessMiddleware
from infrastructure.http.event_streams import COMMENT, EventStream, error_event
from infrastructure.http.served_paths import SERVED
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries.main import create_app as create_query_app
from scripts.gateway import create_app as create_gateway
from tests.deploy.test_methods import served
from tests.user_service import SECRET, claims, token, user_service

OPEN = {
    "/health/live",
    "/health/ready",
    "/openapi.json",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon.png",
}
IDS = {
    "conversation_id": f"conv_{1:032x}",
    "item_id": f"msg_{1:032x}",
    "response_id": f"resp_{1:032x}",
    "completion_id": f"chatcmpl-{1:032x}",
    "model_id": "a/b",
    "path": "v1/anything",
}
LOGIN = Settings(auth_mode="jwt", auth_secret=SECRET)


def apps(settings: Settings = LOGIN) -> dict[str, ASGIApp]:
    return {
        "commands": create_command_app(settings, Metrics(), threading.Event()),
        "queries": create_query_app(settings, Metrics(), threading.Event()),
        "gateway": create_gateway(settings, Metrics(), threading.Event(), Connections()),
    }


def filled(template: str) -> str:
    path = template.replace(":path}", "}").format_map(_AnyId(IDS))
    assert "{" not in path
    return path


class _AnyId(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"{name.removesuffix('_id')}_{1:032x}"


def routes_of(app: ASGIApp) -> Iterator[tuple[str, str]]:
    """Yields (method, path). The method of a WebSocket is WEBSOCKET."""
    if not isinstance(app, Starlette):  # the gateway serves both apps
        yield from ((method, path) for path, methods in SERVED.items() for method in methods.split())
        return
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", route.path
        else:
            assert type(route) is Route, f"The test does not know how to try {route}"
            yield from ((method, route.path) for method in route.methods or ())


async def answer(
    app: ASGIApp, method: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Sends a request, or the handshake of a WebSocket. Returns status, headers and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"} if method == "WEBSOCKET" else {"type": "http.request", "body": b"{}"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "websocket" if method == "WEBSOCKET" else "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "headers": [(b"host", b"127.0.0.1"), *((n.lower().encode(), v.encode()) for n, v in (headers or {}).items())],
        "extensions": {"websocket.http.response": {}},
    }
    if method == "WEBSOCKET":
        del scope["method"]
    await app(scope, receive, send)
    start = sent[0]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, body


@pytest.mark.parametrize("name", ["commands", "queries", "gateway"])
async def test_every_route_except_the_open_paths_needs_a_credential(name: str) -> None:
    app = apps()[name]
    routes = [*routes_of(app)]
    assert len(routes) > 15
    for method, template in routes:
        if template in OPEN:
            continue
        status, headers, body = await answer(app, method, filled(template))
        where = f"{method} {template}"
        assert (status, headers["www-authenticate"]) == (401, "Bearer"), where
        assert headers["x-request-id"], where
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "missing_credential"), where


@pytest.mark.parametrize("name", ["commands", "queries", "gateway"])
async def test_the_open_paths_and_options_need_no_credential(name: str) -> None:
    app = apps()[name]
    for path in OPEN:
        for method in ("GET", "HEAD", "POST"):
            assert (await answer(app, method, path))[0] != 401, f"{method} {path}"
    for template in SERVED:
        status, headers, body = await answer(app, "OPTIONS", filled(template))
        assert (status, body) == (204, b""), template
        assert "OPTIONS" in headers["allow"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a real server, which decodes paths and headers as in production."""
    with served(apps()["gateway"]) as port:
        yield port


async def raw(port: int, *lines: str) -> tuple[int, bytes]:
    """Sends the lines as the request's head. Returns status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "target",
    [
        "//v1/conversations",
        "/v1//conversations",
        "/v1/conversations/",
        "/v1/../health/live",
        "/health/live/../../v1/conversations",
        "/health/../v1/conversations",
        "/docs/../v1/conversations",
        "/docs/%2e%2e/v1/conversations",
        "/docs/",
        "/docs/nothing",
        "/docs;/v1/conversations",
        "/health",
        "/health/",
        "/health/live/",
        "/health/live%00",
        "/health/live%20",
        "/health/live;x",
        "/health/nothing",
        "//health/live",
        "/./health/live",
        "/HEALTH/LIVE",
        "/Docs",
        "/OPENAPI.JSON",
        "/openapi.json/v1/conversations",
        "/openapi.json%2F..%2Fv1%2Fconversations",
        "/health%252Flive",
        "/v1/conversations?/health/live",
        "/v1/conversations#/health/live",
        "/v1/conversations%3F/health/live",
        "/V1/CONVERSATIONS",
        "/metrics",
        "/",
        "/%2F%2Fv1/conversations",
        "http://127.0.0.1/v1/conversations",
        "http://127.0.0.1//health/live",
    ],
)
async def test_a_path_that_is_not_exactly_an_open_path_needs_a_credential(port: int, target: str) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        status, _ = await raw(port, f"{method} {target} HTTP/1.1", "Host: 127.0.0.1")
        assert status == 401, method


@pytest.mark.parametrize("target", ["/health/live?x=1", "/health%2Flive", "http://127.0.0.1/health/live"])
async def test_an_open_path_with_a_query_or_a_host_needs_no_credential(port: int, target: str) -> None:
    assert await raw(port, f"GET {target} HTTP/1.1", "Host: 127.0.0.1") == (200, b'{"status":"live"}')


GOOD = token()
BAD_CREDENTIALS: list[tuple[list[str], str]] = [
    ([], "missing_credential"),
    ([f"X-Authorization: Bearer {GOOD}"], "missing_credential"),
    ([f"Cookie: Authorization=Bearer {GOOD}"], "missing_credential"),
    ([f"Proxy-Authorization: Bearer {GOOD}"], "missing_credential"),
    (["Authorization: "], "invalid_credential"),
    (["Authorization: Bearer"], "invalid_credential"),
    (["Authorization: Bearer "], "invalid_credential"),
    ([f"Authorization: {GOOD}"], "invalid_credential"),
    ([f"Authorization: Basic {GOOD}"], "invalid_credential"),
    ([f"Authorization: Bearer {GOOD} {GOOD}"], "invalid_credential"),
    ([f"Authorization: Bearer {GOOD}, Bearer {GOOD}"], "invalid_credential"),
    ([f"Authorization: Bearer {GOOD}é"], "invalid_credential"),
    ([f"Authorization: Bearer {GOOD}", f"Authorization: Bearer {GOOD}"], "invalid_credential"),
    ([f"Authorization: Bearer {GOOD}", "Authorization: Basic x"], "invalid_credential"),
    (["Authorization: Bearer any"], "invalid_token"),
    ([f"Authorization: Bearer {'a' * 20_000}"], "invalid_token"),
    (["Authorization: Bearer cs_0123456789abcdef_secret"], "invalid_api_key"),
    ([f"Authorization: Bearer {token(exp=1)}"], "invalid_token"),
    ([f"Authorization: Bearer {jwt.encode(claims(), '', 'none')}"], "invalid_token"),
]


@pytest.mark.parametrize(("lines", "code"), BAD_CREDENTIALS)
async def test_a_missing_or_invalid_credential_is_a_401_that_says_why(port: int, lines: list[str], code: str) -> None:
    for target in ("/v1/models", "/v1/nothing"):
        status, body = await raw(port, f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *lines)
        error = json.loads(body)["error"]
        assert (status, error["code"], error["type"]) == (401, code, "authentication_error")
        assert error["message"].endswith("." if code != "missing_credential" else "`.")


async def test_a_credential_in_the_query_does_not_count(port: int) -> None:
    assert (await raw(port, f"GET /v1/models?access_token={GOOD} HTTP/1.1", "Host: x"))[0] == 401


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
async def test_a_request_with_a_valid_token_is_let_in(port: int, scheme: str) -> None:
    authorization = f"Authorization: {scheme}{GOOD}"
    assert (await raw(port, "GET /v1/nothing HTTP/1.1", "Host: x", authorization))[0] == 404
    assert (await raw(port, "GET /v1/conversations/x HTTP/1.1", "Host: x", authorization))[0] == 400


async def test_the_official_sdk_says_why_it_was_refused_and_does_not_retry(port: int) -> None:
    issued: list[str] = []

    async def fresh_token() -> str:
        issued.append(token(aud="another service"))
        return issued[-1]

    for api_key in ("any", fresh_token):
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=api_key, max_retries=5) as sdk:
            with pytest.raises(AuthenticationError) as refused:
                await sdk.models.list()
            assert (refused.value.status_code, refused.value.code) == (401, "invalid_token")
    assert len(issued) == 1


async def test_a_large_body_without_a_credential_is_a_401(port: int) -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/import", content=b"x" * 5_000_000)
    assert answer.status_code == 401


async def test_no_answer_and_no_log_line_repeats_a_credential(port: int) -> None:
    with capture_logs() as logs:
        for lines, _ in BAD_CREDENTIALS:
            _, body = await raw(port, "GET /v1/models HTTP/1.1", "Host: x", *lines)
            for word in (word for line in lines for word in line.replace(",", " ").split()):
                assert len(word) < 20 or word[:20].encode() not in body
    logged = json.dumps(logs)
    assert "/v1/models" in logged
    assert "eyJ" not in logged
    assert "0123456789abcdef" not in logged


async def test_without_the_keys_of_the_user_service_a_token_is_a_503() -> None:
    with user_service() as service:
        service.answer = lambda: (500, b"")
        app = apps(Settings(auth_mode="jwt", auth_jwks_url=service.url))["queries"]
        status, headers, body = await answer(app, "GET", "/v1/models", {"Authorization": f"Bearer {GOOD}"})
    assert (status, headers["retry-after"], headers["x-should-retry"]) == (503, "1", "true")
    assert json.loads(body)["error"]["code"] == "credential_not_checked"


class Login:
    refusal: Exception | None = None

    async def authenticate(self, _: HTTPConnection) -> Principal:
        if self.refusal is not None:
            raise self.refusal
        return Principal("acme", "ann", frozenset({"read"}))


async def followed(refusal: Exception, method: str = "GET", pause: float = 0.01) -> list[bytes]:
    """Follows a stream whose credential is refused after the second of ten events. Returns what was sent."""
    sent: list[bytes] = []
    login = Login()

    async def events() -> AsyncIterator[bytes]:
        for number in range(10):
            yield b"data: %d\n\n" % number
            if number == 1:
                login.refusal = refusal
                await asyncio.sleep(pause)

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/x",
        "headers": [],
        "state": {},
        "asgi": {"spec_version": "2.4"},
    }
    async with asyncio.timeout(10):
        await AccessMiddleware(EventStream(events(), {}, 0.05), login)(scope, receive, send)
    return sent[1:]


async def test_an_expired_token_ends_only_streams_of_get() -> None:
    expired = InvalidCredential("invalid_token", "The token has expired.")
    until_then = [b"data: 0\n\n", b"data: 1\n\n", error_event(expired)]
    assert await followed(expired) == [*until_then, b""]
    idle = [body for body in await followed(expired, pause=60) if body != COMMENT]
    assert idle == [*until_then, b""]
    assert len(await followed(expired, "POST")) == 11
    assert len(await followed(CannotCheckCredential("Postgres is away."))) == 11


@pytest.fixture
async def open_api() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(apps(Settings())["gateway"])
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_every_credential_is_let_in_without_a_login(
    open_api: httpx.AsyncClient,
) -> None:
    sent: list[dict[str, Any]] = [{}, {"Authorization": "Bearer any"}, {"Authorization": "Basic x"}]
    for headers in sent:
        assert (await open_api.get("/v1/nothing", headers=headers)).status_code == 404


async def test_if_only_api_keys_are_accepted_a_token_is_refused() -> None:
    app = apps(Settings(auth_mode="keys"))["queries"]
    status, headers, body = await answer(app, "GET", "/v1/models", {"Authorization": f"Bearer {GOOD}"})
    assert (status, headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
