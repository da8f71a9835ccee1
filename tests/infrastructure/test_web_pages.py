"""What web pages may do: CORS, `Host` and `Origin`, and the headers that protect an answer in a browser."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter
from msgspec import Struct
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket

from infrastructure.access.principal import Principal
from infrastructure.access.refusals import InvalidCredential
from infrastructure.http.app import make_app
from infrastructure.http.door import Authenticator, NoLogin
from infrastructure.http.errors import ApiError
from infrastructure.http.web_pages import WebPages
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings

CHAT = "https://chat.example.com"
LOCAL = ("host", "localhost:8000")
PROTECTION = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
API_PROTECTION = {
    **PROTECTION,
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}

SERVED_HOSTS = (
    "localhost",
    "localhost:8000",
    "LocalHost:1",
    "localhost.",
    "localhost.:80",
    "localhost:",
    "127.0.0.1",
    "127.0.0.1:65535",
    "127.0.0.1.",
    "127.255.1.2:80",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]:8000",
    "chat.example.com",
    "Chat.Example.COM.:443",
    "10.0.0.5:8000",
    "[fd00::5]:8000",
    "my_host:1",
)
OTHER_HOSTS = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost:80@evil.example",
    "evil.example#localhost",
    "evil.example/localhost",
    "localhost,evil.example",
    "localhost evil.example",
    "localhost..",
    "foo.localhost",
    "localhost:abc",
    "localhost:999999",
    "localhost:80:80",
    "[::1",
    "::1",
    "[::1]x",
    "[::1%25lo]",
    "[::2]",
    "[localhost]",
    "0.0.0.0:8000",
    "10.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "",
    ".",
    "\xe9vil",
    "example.com",
    "x.chat.example.com",
)
OTHER_ORIGINS = (
    "http://evil.example",
    "http://localhost",
    "http://localhost:3000",
    "http://127.0.0.1:8000",
    "https://localhost:8000.evil.example",
    "http://localhost:8000@evil.example",
    "http://evil.example@localhost:8000",
    "http://localhost:8000/",
    "localhost:8000",
    "//localhost:8000",
    "null",
    "",
    "http://",
    "http://[",
    "file://",
    "chrome-extension://abcdefghijklmnop",
    "\xe9",
)


class Answer(Struct, frozen=True):
    """An answer of the app. `status` is 101 if a WebSocket was accepted."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        return json.loads(self.body)["error"]["code"] if self.status >= 400 else None


class Store:
    """An app with the rules for web pages.

    `served`: the methods of the requests that reached `thing` or `socket`.
    """

    def __init__(self, authenticator: Authenticator | None = None, **rules: Any) -> None:
        self.served: list[str] = []
        router = APIRouter()
        for path, endpoint in (("/v1/things", self.thing), ("/v1/broken", self.broken), ("/v1/stream", self.stream)):
            router.add_api_route(path, endpoint, methods=["GET", "POST"], name=path)
        self.app: Starlette = make_app(
            "Things",
            [router],
            sockets=[WebSocketRoute("/v1/socket", self.socket)],
            lifespan=_lifespan,
            metrics=Metrics(),
            authenticator=authenticator or NoLogin(),
            limiter=Limiter(Settings(), Metrics()),
            web_pages=WebPages(**{"has_login": False, **rules}),
        )

    async def thing(self, request: Request) -> Response:
        self.served.append(request.method)
        return Response(b"{}", 304 if "if-none-match" in request.headers else 200, {"etag": '"1"'})

    async def broken(self, _: Request) -> Response:
        raise ApiError(409, "No.", code="conflict")

    async def stream(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def socket(self, websocket: WebSocket) -> None:
        self.served.append("WEBSOCKET")
        await websocket.accept()
        await websocket.close()

    async def ask(self, method: str, path: str, *headers: tuple[str, str]) -> Answer:
        """Sends exactly these headers. `WEBSOCKET` as the method opens a socket."""
        is_socket = method == "WEBSOCKET"
        messages: list[Message] = []

        received = iter(
            [{"type": "websocket.connect"} if is_socket else {"type": "http.request", "body": b"", "more_body": False}]
        )

        async def receive() -> Message:
            if (message := next(received, None)) is None:
                await asyncio.Event().wait()
            assert message is not None
            return message

        async def send(message: Message) -> None:
            messages.append(message)

        scope: dict[str, Any] = {
            "type": "websocket" if is_socket else "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "extensions": {"websocket.http.response": {}},
        }
        if is_socket:
            del scope["method"]
        await self.app(scope, receive, send)
        head, *rest = messages
        fields: dict[str, str] = {}
        for name, value in head["headers"]:
            fields[name.decode()] = ", ".join(filter(None, (fields.get(name.decode()), value.decode())))
        return Answer(head.get("status", 101), fields, b"".join(message.get("body", b"") for message in rest))


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    yield


async def test_without_a_login_loopback_and_allowed_hosts_are_served() -> None:
    store = Store(allowed_hosts=["chat.example.com", "10.0.0.5", "fd00::5", "my_host"])
    for host in SERVED_HOSTS:
        assert (await store.ask("GET", "/v1/things", ("host", host))).status == 200, host
        assert (await store.ask("WEBSOCKET", "/v1/socket", ("host", host))).status == 101, host
        own = ("origin", f"http://{host}")
        assert (await store.ask("POST", "/v1/things", ("host", host), own)).status == 200, host


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/things"), ("WEBSOCKET", "/v1/socket"), ("GET", "/docs")])
async def test_without_a_login_any_other_host_is_refused(method: str, path: str) -> None:
    store = Store(allowed_hosts=["chat.example.com"], cors_origins=[CHAT])
    for host in OTHER_HOSTS:
        answer = await store.ask(method, path, ("host", host))
        assert (answer.status, answer.code) == (403, "host_not_allowed"), host
        # DNS rebinding: page and store have the same origin.
        own_page = [("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")]
        assert (await store.ask(method, path, *own_page)).code == "host_not_allowed", host
        assert (await store.ask(method, path, ("host", host), ("origin", CHAT))).code == "host_not_allowed", host
    assert store.served == []


async def test_without_a_login_a_request_must_have_exactly_one_host() -> None:
    store = Store()
    hosts: Sequence[Sequence[str]] = ([], ["localhost", "evil.example"], ["localhost", "localhost"])
    for sent in hosts:
        answer = await store.ask("GET", "/v1/things", *(("host", host) for host in sent))
        assert (answer.status, answer.code, store.served) == (400, "invalid_header", [])


async def test_the_host_is_checked_on_every_path_but_the_health_checks() -> None:
    store = Store()
    for path in ("/", "/v1/nothing", "/metrics", "/openapi.json", "/docs/favicon.png", "/health/nothing", "*"):
        for method in ("GET", "OPTIONS", "DELETE"):
            assert (await store.ask(method, path, ("host", "evil.example"))).code == "host_not_allowed", path


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_is_answered_for_any_host(path: str) -> None:
    store = Store()
    for headers in ([], [("host", "10.1.2.3:8000")], [("host", "??")], [("host", "a"), ("host", "b")]):
        assert (await store.ask("GET", path, *headers)).code != "host_not_allowed"
    assert (await store.ask("GET", path, LOCAL, ("origin", "http://evil.example"))).code == "origin_not_allowed"


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/things"), ("WEBSOCKET", "/v1/socket"), ("GET", "/docs")])
async def test_without_a_login_a_page_of_another_origin_is_refused(method: str, path: str) -> None:
    store = Store(cors_origins=[CHAT])
    for origin in OTHER_ORIGINS:
        answer = await store.ask(method, path, LOCAL, ("origin", origin))
        assert (answer.status, answer.code) == (403, "origin_not_allowed"), origin
        assert "access-control-allow-origin" not in answer.headers
    assert store.served == []


async def test_without_a_login_pages_of_the_store_are_served() -> None:
    store = Store()
    for host, origin in (
        ("localhost:8000", "http://localhost:8000"),
        ("localhost:8000", "https://localhost:8000"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("LOCALHOST:8000", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
    ):
        sent = [("host", host), ("origin", origin), ("sec-fetch-site", "same-origin")]
        assert (await store.ask("POST", "/v1/things", *sent)).status == 200, host
        assert (await store.ask("WEBSOCKET", "/v1/socket", *sent)).status == 101, host


async def test_a_request_with_two_different_origins_is_refused() -> None:
    store = Store(cors_origins=[CHAT])
    for other in ("http://evil.example", "http://localhost:8000"):
        for pair in ([CHAT, other], [other, CHAT]):
            answer = await store.ask("POST", "/v1/things", LOCAL, *(("origin", origin) for origin in pair))
            assert answer.code == "origin_not_allowed"
            assert "access-control-allow-origin" not in answer.headers
    assert store.served == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/things"), ("POST", "/v1/things"), ("WEBSOCKET", "/v1/socket")]
)
async def test_without_a_login_requests_from_other_sites_are_refused(method: str, path: str) -> None:
    store = Store(cors_origins=[CHAT])
    for value in ("cross-site", "same-site", "", "None", "same-origin, none", "anything"):
        site = ("sec-fetch-site", value)
        answer = await store.ask(method, path, LOCAL, site)
        assert (answer.status, answer.code) == (403, "origin_not_allowed"), value
        assert (await store.ask(method, path, LOCAL, ("sec-fetch-site", "none"), site)).status == 403, value
        assert (await store.ask(method, path, LOCAL, ("origin", "http://localhost:8000"), site)).status == 403, value
        assert store.served == []
        assert (await store.ask(method, path, LOCAL, ("origin", CHAT), site)).status < 400, value
        store.served.clear()


NAVIGATION = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"))


@pytest.mark.parametrize("path", ["/docs", "/console"])
async def test_a_link_may_open_a_page_of_the_store_but_a_frame_may_not(path: str) -> None:
    store = Store()
    assert (await store.ask("GET", path, LOCAL, *NAVIGATION, ("sec-fetch-dest", "document"))).status in (200, 404)
    for dest in ("iframe", "embed", "image", "empty"):
        assert (await store.ask("GET", path, LOCAL, *NAVIGATION, ("sec-fetch-dest", dest))).status == 403
    for other in ("/v1/things", "/openapi.json", f"{path}/x", "/health/live"):
        assert (await store.ask("GET", other, LOCAL, *NAVIGATION, ("sec-fetch-dest", "document"))).status == 403
    assert (await store.ask("POST", path, LOCAL, *NAVIGATION, ("sec-fetch-dest", "document"))).status == 403
    assert (await store.ask("GET", path, ("host", "evil.example"), *NAVIGATION)).code == "host_not_allowed"


async def test_with_a_login_only_the_origin_of_a_socket_is_checked() -> None:
    store = Store(has_login=True, cors_origins=[CHAT])
    for headers in ([], [("host", "any"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")]):
        answer = await store.ask("POST", "/v1/things", *headers)
        assert (answer.status, "access-control-allow-origin" in answer.headers) == (200, False)
    assert store.served == ["POST", "POST"]
    for origin in ("http://evil.example", "null"):
        assert (
            await store.ask("WEBSOCKET", "/v1/socket", ("host", "any"), ("origin", origin))
        ).code == "origin_not_allowed"
    assert store.served == ["POST", "POST"]
    for origin in (CHAT, "https://any"):
        assert (await store.ask("WEBSOCKET", "/v1/socket", ("host", "any"), ("origin", origin))).status == 101
    assert (await store.ask("WEBSOCKET", "/v1/socket", ("host", "any"))).status == 101


ANSWERS = (
    ("GET", "/v1/things", 200),
    ("POST", "/v1/things", 200),
    ("GET", "/v1/stream", 200),
    ("GET", "/v1/broken", 409),
    ("GET", "/v1/nothing", 404),
    ("DELETE", "/v1/things", 404),
    ("POST", "/docs", 405),
    ("OPTIONS", "/docs", 204),
    ("GET", "/docs", 200),
)


@pytest.mark.parametrize("has_login", [True, False])
async def test_a_page_of_a_listed_origin_may_read_every_answer(has_login: bool) -> None:
    store = Store(has_login=has_login, cors_origins=["https://Chat.example.com:443", "http://localhost:3000"])
    for method, path, status in ANSWERS:
        for origin in (CHAT, "http://localhost:3000"):
            answer = await store.ask(method, path, LOCAL, ("origin", origin), ("sec-fetch-site", "cross-site"))
            assert answer.status == status, path
            assert answer.headers["access-control-allow-origin"] == origin
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"ETag", "X-Position", "X-Request-ID", "RateLimit", "Retry-After", "WWW-Authenticate"} <= {*exposed}
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["vary"].split(", ")[-1] == "Origin"
        # Without `Vary`, a cache could give this answer to a page of a listed origin.
        own = await store.ask(method, path, LOCAL)
        assert (own.headers["vary"], "access-control-allow-origin" in own.headers) == ("Origin", False)


class NobodyGetsIn:
    async def authenticate(self, _: HTTPConnection) -> Principal:
        raise InvalidCredential("invalid_token", "The token has expired.")


async def test_a_page_of_a_listed_origin_may_read_a_401() -> None:
    store = Store(NobodyGetsIn(), has_login=True, cors_origins=[CHAT])
    answer = await store.ask("POST", "/v1/things", ("host", "any"), ("origin", CHAT))
    assert (answer.status, answer.code, store.served) == (401, "invalid_token", [])
    assert answer.headers["access-control-allow-origin"] == CHAT
    preflight = [("origin", CHAT), ("access-control-request-method", "POST")]
    assert (await store.ask("OPTIONS", "/v1/things", ("host", "any"), *preflight)).status == 204


async def test_a_304_answer_has_the_cors_and_protection_headers_of_a_200() -> None:
    answer = await Store(cors_origins=[CHAT]).ask(
        "GET", "/v1/things", LOCAL, ("origin", CHAT), ("if-none-match", '"1"')
    )
    assert (answer.status, answer.headers["etag"], answer.headers["access-control-allow-origin"]) == (304, '"1"', CHAT)
    assert API_PROTECTION.items() <= answer.headers.items()


@pytest.mark.parametrize("has_login", [True, False])
async def test_a_preflight_of_a_listed_origin_allows_every_method(has_login: bool) -> None:
    store = Store(has_login=has_login, cors_origins=[CHAT])
    headers = "authorization,content-type,idempotency-key,if-match,x-stainless-arch,x-stainless-os,x-subject"
    asks = ("access-control-request-method", "POST")
    for path in ("/v1/things", "/v1/nothing", "/docs"):
        names = ("access-control-request-headers", headers)
        answer = await store.ask(
            "OPTIONS", path, LOCAL, ("origin", CHAT), ("sec-fetch-site", "cross-site"), asks, names
        )
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == CHAT
        assert answer.headers["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, POST"
        assert answer.headers["access-control-allow-headers"] == headers
        assert answer.headers["access-control-max-age"] == "600"
        assert answer.headers["x-request-id"]
    nonsense = ("access-control-request-headers", "a b\x1b")
    answer = await store.ask("OPTIONS", "/v1/things", LOCAL, ("origin", CHAT), asks, nonsense)
    assert "access-control-allow-headers" not in answer.headers


async def test_a_preflight_of_another_origin_allows_nothing() -> None:
    preflight = [LOCAL, ("origin", "http://evil.example"), ("access-control-request-method", "DELETE")]
    listed: list[str]
    for listed in ([CHAT], []):
        store = Store(cors_origins=listed)
        assert (await store.ask("OPTIONS", "/v1/things", *preflight)).code == "origin_not_allowed"
        answer = await Store(has_login=True, cors_origins=listed).ask("OPTIONS", "/docs", *preflight)
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_every_answer_has_the_headers_that_protect_it_in_a_browser() -> None:
    store = Store()
    for method, path in (
        ("GET", "/v1/things"),
        ("GET", "/v1/stream"),
        ("GET", "/v1/broken"),
        ("POST", "/v1/nothing"),
        ("OPTIONS", "/docs/x"),
        ("GET", "/openapi.json"),
    ):
        answer = await store.ask(method, path, LOCAL)
        wanted = PROTECTION if path.startswith("/docs") else API_PROTECTION
        assert wanted.items() <= answer.headers.items()
        assert "vary" not in answer.headers
    refused = await store.ask("GET", "/v1/things", ("host", "evil.example"))
    assert API_PROTECTION.items() <= refused.headers.items()
    assert refused.headers["x-request-id"]


async def test_the_documentation_page_runs_only_its_own_scripts() -> None:
    page = await Store().ask("GET", "/docs", LOCAL)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self' 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert "http" not in policy
    assert (await Store().ask("GET", "/docs/favicon.png", LOCAL)).headers["cache-control"] == "public, max-age=86400"


@pytest.mark.parametrize(
    ("origins", "hosts"),
    [
        ("", ""),
        (
            " https://a.example , http://localhost:3000,chrome-extension://abc,capacitor://localhost",
            "a.example, 10.0.0.1",
        ),
        ("http://[::1]:3000", "[::1],fd00::5,2001:db8::,LOCALHOST."),
    ],
)
def test_cors_origins_and_allowed_hosts_are_lists_separated_by_commas(
    origins: str, hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origins)
    monkeypatch.setenv("ALLOWED_HOSTS", hosts)
    settings = Settings()
    assert len(settings.cors_origins) == origins.count("://")
    assert len(settings.allowed_hosts) == len([host for host in hosts.split(",") if host])
    WebPages.of(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://*.example.com"),
        ("CORS_ORIGINS", "chat.example.com"),
        ("CORS_ORIGINS", "https://chat.example.com/"),
        ("CORS_ORIGINS", "https://chat.example.com/app"),
        ("CORS_ORIGINS", "https://me@chat.example.com"),
        ("CORS_ORIGINS", "https://a.example https://b.example"),
        ("CORS_ORIGINS", "https://bücher.example"),
        ("ALLOWED_HOSTS", "*"),
        ("ALLOWED_HOSTS", "*.example.com"),
        ("ALLOWED_HOSTS", ".example.com"),
        ("ALLOWED_HOSTS", "chat.example.com:8000"),
        ("ALLOWED_HOSTS", "chat.example.com:"),
        ("ALLOWED_HOSTS", "[::1]:8000"),
        ("ALLOWED_HOSTS", "https://chat.example.com"),
        ("ALLOWED_HOSTS", "10.0.0.0/8"),
    ],
)
def test_a_setting_that_is_no_origin_or_host_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match="without a p"):
        Settings()
