"""Both APIs, and people with different rights."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from threading import Event
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from msgspec import Struct

from commands import main as commands
from infrastructure.access.principal import Scope
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries
from tests.access.apis_as import ADMIN, Apis, open_apis, projecting
from tests.documented_answers import checked_answers
from tests.principals import HEADER, USER, HeaderAuthenticator
from tests.scripted_provider import ScriptedProvider, scripted_provider


class Person(Struct, frozen=True):
    """`clients`: one for the command API, one for the query API."""

    clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
    subject: str
    tenant: str = "acme"
    scopes: Collection[Scope] = USER

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str] = MappingProxyType({}), **request: Any
    ) -> httpx.Response:
        client = self.clients[method in ("GET", "HEAD")]
        named = f"{self.tenant}/{self.subject}/{' '.join(self.scopes)}"
        return await client.request(method, path, headers={**headers, HEADER: named}, **request)

    async def upload(
        self,
        data: bytes,
        name: str = "a.bin",
        purpose: str = "user_data",
        fields: Mapping[str, str] = MappingProxyType({}),
        **request: Any,
    ) -> httpx.Response:
        form = {"purpose": purpose, **fields}
        return await self.send("POST", "/v1/files", data=form, files={"file": (name, data)}, **request)

    async def uploaded(self, data: bytes, name: str = "a.bin", **request: Any) -> str:
        """Uploads a file. Returns the id of the file."""
        answer = await self.upload(data, name, **request)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def content(self, file_id: str, **request: Any) -> httpx.Response:
        return await self.send("GET", f"/v1/files/{file_id}/content", **request)


@pytest.fixture
async def clients(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        opened = []
        for name, side in (("commands", commands), ("queries", queries)):
            app = side.create_app(settings, Metrics(), Event(), authenticator=HeaderAuthenticator())
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://store",
                timeout=60,
                event_hooks=checked_answers(name, app),
            )
            opened.append(await stack.enter_async_context(client))
        yield opened[0], opened[1]


@pytest.fixture
def ann(clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> Person:
    return Person(clients, "ann")


@pytest.fixture
def bob(clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> Person:
    return Person(clients, "bob")


@pytest.fixture
def admin(clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> Person:
    return Person(clients, "root", scopes=ADMIN)


@pytest.fixture
def stranger(clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> Person:
    """An admin of another tenant, with Ann's name."""
    return Person(clients, "ann", "other", ADMIN)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture(params=["chat", "responses"])
def model_api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def apis(settings: Settings, provider: ScriptedProvider, model_api: str) -> AsyncIterator[Apis]:
    changes = {"openai_base_url": provider.url, "default_model": "scripted", "model_api": model_api}
    if model_api == "responses":
        item = {"id": "msg_theirs", "type": "message", "role": "assistant", "status": "completed"}
        answer = {**item, "content": [{"type": "output_text", "text": "A cat.", "annotations": []}]}
        provider.script = lambda exchange: exchange.stream_items(answer)
    else:
        provider.script = lambda exchange: exchange.stream_text("A cat.")
    async with open_apis(settings.model_copy(update=changes)) as opened, projecting(opened.projector):
        yield opened
