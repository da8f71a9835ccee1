"""The command API and the query API behind one app. Each request names its principal."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from threading import Event
from typing import Any, Final

import httpx
from msgspec import Struct
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

import commands.main
import queries.main
from infrastructure.access.principal import Principal, Scope
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS
from tests.principals import HEADER, USER, HeaderAuthenticator
from tests.queries.manual_projector import ManualProjector

ADMIN: Final[frozenset[Scope]] = frozenset({"admin"})
TENANT = "acme"


def user(subject: str, tenant: str = TENANT, scopes: Collection[Scope] = USER) -> Principal:
    return Principal(tenant, subject, frozenset(scopes))


class Apis(Struct, frozen=True):
    app: Any
    projector: ManualProjector
    http: httpx.AsyncClient

    async def request(self, principal: Principal, method: str, path: str, **arguments: Any) -> httpx.Response:
        named = f"{principal.tenant}/{principal.subject}/{' '.join(principal.scopes)}"
        headers = {**arguments.pop("headers", {}), HEADER: named}
        return await self.http.request(method, path, headers=headers, **arguments)

    async def get(self, principal: Principal, path: str, **arguments: Any) -> httpx.Response:
        return await self.request(principal, "GET", path, **arguments)

    async def post(self, principal: Principal, path: str, body: Any = None, **arguments: Any) -> httpx.Response:
        return await self.request(principal, "POST", path, json=body, **arguments)

    async def create(self, principal: Principal, *texts: str, **fields: Any) -> str:
        """Returns the id of a new conversation."""
        items = [{"role": "user", "content": text} for text in texts]
        answer = await self.post(principal, "/v1/conversations", {"items": items, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def reply(self, principal: Principal, text: Any, **fields: Any) -> dict[str, Any]:
        """Returns the response. The request must succeed."""
        answer = await self.post(principal, "/v1/responses", {"input": text, **fields})
        assert answer.status_code == 200, answer.text
        response: dict[str, Any] = answer.json()
        return response

    async def listed(self, principal: Principal, **parameters: str) -> list[str]:
        """The ids of the listed conversations, from all pages."""
        ids: list[str] = []
        after: dict[str, str] = {}
        while True:
            answer = await self.get(principal, "/v1/conversations", params={"limit": "5", **parameters, **after})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            ids += [conversation["id"] for conversation in page["data"]]
            if not page["has_more"]:
                return ids
            after = {"after": page["last_id"]}


@asynccontextmanager
async def open_apis(settings: Settings, *, query_settings: Settings | None = None) -> AsyncIterator[Apis]:
    """Opens both APIs. `query_settings`: settings for the query API. None: `settings`."""
    authenticator = HeaderAuthenticator()
    command_app = commands.main.create_app(settings, Metrics(), Event(), authenticator=authenticator)
    query_app = queries.main.create_app(query_settings or settings, Metrics(), Event(), authenticator=authenticator)

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        await (query_app if scope["method"] in ("GET", "HEAD") else command_app)(scope, receive, send)

    projector = ManualProjector(settings, ALL_VIEWS)
    async with (
        command_app.router.lifespan_context(command_app),
        query_app.router.lifespan_context(query_app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store", timeout=30) as http,
    ):
        await projector.open()
        try:
            yield Apis(app, projector, http)
        finally:
            await projector.close()


@asynccontextmanager
async def projecting(projector: ManualProjector) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


def without_id(answer: httpx.Response, *ids: str) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers, to compare with other answers.

    `<id>` replaces each of `ids`. Headers that may differ are left out.
    """
    text = answer.text
    for one in ids:
        text = text.replace(one, "<id>")
    own = {
        name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date", "content-length")
    }
    return answer.status_code, json.loads(text), own
