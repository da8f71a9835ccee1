"""Both apps with a login, for the tests of the route matrix."""

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import jwt
from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import commands.main
import queries.main
from infrastructure.access.principal import SCOPES
from infrastructure.event_log.log import EventLog
from infrastructure.http.door import authenticator_of
from infrastructure.ids import completion_id
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.user_service import SECRET, claims

WORD: Final = "plantedword"
"""Everything that Ann or the model writes in a Target contains this word."""

AUDIENCE: Final = "store"
TENANT: Final = "acme"
OWNER, READER, WRITER, OTHER, ADMIN = "ann", "ron", "wil", "oth", "adm"
USERS = "read write reply"


def bearer(subject: str = OWNER, scope: str = USERS, *, secret: str = SECRET, **changed: Any) -> str:
    sent = claims(**{"sub": subject, "scope": scope, "aud": AUDIENCE, **changed})
    return f"Bearer {jwt.encode(sent, secret, 'HS256')}"


INVALID: Final[Mapping[str, str | None]] = {
    "no credential": None,
    "expired": bearer(exp=1),
    "wrong signature": bearer(secret="another secret, as long as the one that the store has ........."),
    "alg=none": f"Bearer {jwt.encode(claims(aud=AUDIENCE), '', 'none')}",
    "wrong audience": bearer(aud="another service"),
}
"""No credential, and invalid credentials of the owner."""

ROLES: Final[Mapping[str, str]] = {
    "other tenant": bearer(OWNER, " ".join(SCOPES), tenant="other"),
    "other user": bearer(OTHER),
    "reader": bearer(READER),
    "writer": bearer(WRITER),
    "owner": bearer(OWNER),
    "admin": bearer(ADMIN, "admin"),
}


def without(scope: str) -> str:
    """A credential with every scope except this one.

    `admin` includes `read`, `write` and `reply`, so `admin` is left out together with each of these.
    """
    return bearer(OWNER, " ".join(SCOPES - {scope, *(("admin",) if scope in ("read", "write", "reply") else ())}))


class Target(Struct, frozen=True):
    """Ids of a conversation and its content, of a key, and of a file.

    Ron may read Ann's conversation, and Wil may write to it.
    """

    conversation_id: str
    item_id: str
    response_id: str
    completion_id: str
    key_id: str
    file_id: str


class MatrixStore:
    def __init__(self, app: ASGIApp, http: httpx.AsyncClient, write: Writer) -> None:
        self.app = app
        self.write = write
        self.http = http
        self.invalid = dict(INVALID)
        self._numbers = itertools.count()

    async def send(
        self, method: str, path: str, authorization: str | None, *, content_type: str | None = None, **more: Any
    ) -> httpx.Response:
        named = {"Authorization": authorization, "Content-Type": content_type, **more.pop("headers", {})}
        headers = {name: value for name, value in named.items() if value is not None}
        async with asyncio.timeout(20):
            return await self.http.request(method, path, headers=headers, **more)

    async def as_owner(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.send(method, path, ROLES["owner"], json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        created: dict[str, Any] = answer.json()
        return created

    def word(self) -> str:
        return f"{WORD}{next(self._numbers)}"

    async def new_target(self) -> Target:
        conversation = await self.as_owner(
            "POST",
            "/v1/conversations",
            title=self.word(),
            instructions=self.word(),
            metadata={self.word(): self.word()},
            context_policy={"budget": 1_000},
            items=[{"type": "message", "role": "user", "content": f"{self.word()} {'long ' * 700}"}],
        )
        conversation_id = conversation["id"]
        base = f"/v1/conversations/{conversation_id}"
        for subject, role in ((READER, "reader"), (WRITER, "writer")):
            await self.as_owner("POST", f"{base}/shares", **{"with": {"subject": subject}, "role": role})
        call = {"type": "function_call", "call_id": "c", "name": self.word(), "arguments": json.dumps(self.word())}
        output = {"type": "function_call_output", "call_id": "c", "output": self.word()}
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.word()}]}
        added = await self.as_owner("POST", f"{base}/items", items=[call, output, message])
        response = await self.as_owner(
            "POST",
            "/v1/responses",
            conversation=conversation_id,
            input=self.word(),
            instructions=self.word(),
            metadata={"planted": self.word()},
            model="scripted",
        )
        completion = await self.write.complete_chat(
            conversation_id, self.word(), self.word(), metadata={self.word(): self.word()}
        )
        await self.as_owner("POST", f"{base}/compact", model="scripted")
        key = await self.send(
            "POST", "/v1/keys", ROLES["admin"], json={"subject": "backend", "scopes": ["read"], "name": self.word()}
        )
        file = await self.send(
            "POST",
            "/v1/files",
            ROLES["owner"],
            data={"purpose": "user_data"},
            files={"file": (self.word(), self.word().encode())},
        )
        item_id: str = added["data"][-1]["id"]
        return Target(
            conversation_id, item_id, response["id"], completion_id(completion), key.json()["id"], file.json()["id"]
        )


@asynccontextmanager
async def open_matrix_store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[MatrixStore]:
    provider.script = _repeat_planted_words
    login = {"auth_mode": "jwt,keys", "auth_secret": SECRET, "auth_audience": AUDIENCE, "openai_base_url": provider.url}
    settings = Settings(**{**settings.model_dump(), **login})
    authenticator = authenticator_of(settings)
    command_app, query_app = (
        side.create_app(settings, Metrics(), threading.Event(), authenticator=authenticator)
        for side in (commands.main, queries.main)
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        await (query_app if is_read else command_app)(scope, receive, send)

    projector, stop = ManualProjector(settings), asyncio.Event()
    await projector.open()
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    async with (
        command_app.router.lifespan_context(command_app),
        query_app.router.lifespan_context(query_app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=30) as http,
    ):
        projecting = asyncio.create_task(projector.run(stop))
        store = MatrixStore(app, http, Writer(log, TENANT, OWNER))
        store.invalid["revoked key"] = await _revoked_key(store)
        try:
            yield store
        finally:
            stop.set()
            await projecting
            await projector.close()
            await log.close()


async def _revoked_key(store: MatrixStore) -> str:
    fields = {"subject": OWNER, "scopes": USERS.split()}
    key = (await store.send("POST", "/v1/keys", ROLES["admin"], json=fields)).json()
    authorization = f"Bearer {key['secret']}"
    assert (await store.send("GET", "/v1/models", authorization)).status_code == 200
    assert (await store.send("DELETE", f"/v1/keys/{key['id']}", ROLES["admin"])).status_code == 200
    async with asyncio.timeout(5):
        while (await store.send("GET", "/v1/models", authorization)).status_code != 401:  # noqa: ASYNC110 - it polls
            await asyncio.sleep(0.05)
    return authorization


def _repeat_planted_words(exchange: Exchange) -> None:
    """The word in another user's answer shows that the model was sent Ann's content."""
    exchange.stream_text("You said: ", WORD if WORD in json.dumps(exchange.body) else "nothing")


async def socket_answers(app: ASGIApp, authorization: str | None, message: Mapping[str, Any]) -> tuple[int, list[Any]]:
    """Sends a `response.create` over a WebSocket.

    Returns the handshake's status and the answers. If the handshake is refused, its body is the only answer.
    """
    sent: list[Message] = []
    ended = asyncio.Event()
    messages = iter(
        [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": json.dumps({"type": "response.create", **message})},
        ]
    )

    async def receive() -> Message:
        for next_message in messages:
            return next_message
        await ended.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(event: Message) -> None:
        sent.append(event)
        text = json.loads(event["text"]) if event["type"] == "websocket.send" else {}
        if text.get("type") in ("error", "response.completed", "response.failed", "response.incomplete"):
            ended.set()

    headers = [(b"host", b"127.0.0.1"), *([(b"authorization", authorization.encode())] if authorization else [])]
    scope = {
        "type": "websocket",
        "path": "/v1/responses",
        "raw_path": b"/v1/responses",
        "query_string": b"",
        "root_path": "",
        "scheme": "ws",
        "server": ("127.0.0.1", 80),
        "headers": headers,
        "extensions": {"websocket.http.response": {}},
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    if sent[0]["type"] == "websocket.http.response.start":
        return sent[0]["status"], [json.loads(sent[1]["body"])]
    return 101, [json.loads(event["text"]) for event in sent if event["type"] == "websocket.send"]
