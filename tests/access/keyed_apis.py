"""Both APIs with AUTH_MODE=keys. They share nothing in memory, like two processes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from threading import Event
from typing import Any

import httpx

from commands import main as commands
from infrastructure.access.api_key import CreatedApiKey
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries
from tests.documented_answers import checked_answers


class KeyedApis:
    def __init__(self, command_api: httpx.AsyncClient, query_api: httpx.AsyncClient) -> None:
        self._command_api = command_api
        self._query_api = query_api

    async def send(
        self,
        key: CreatedApiKey | str | None,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """A `str` is sent in place of a key's secret. None sends no credential."""
        secret = key.secret if isinstance(key, CreatedApiKey) else key
        sent = {**({} if secret is None else {"authorization": f"Bearer {secret}"}), **(headers or {})}
        raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in sent.items()]
        api = self._query_api if method in ("GET", "HEAD") else self._command_api
        return await api.request(method, path, headers=raw, **request)


@asynccontextmanager
async def open_apis(settings: Settings) -> AsyncIterator[KeyedApis]:
    keyed = settings.model_copy(update={"auth_mode": "keys"})
    async with AsyncExitStack() as stack:
        clients = []
        for name, side in (("commands", commands), ("queries", queries)):
            app = side.create_app(keyed, Metrics(), Event())
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://127.0.0.1",
                timeout=30,
                event_hooks=checked_answers(name, app),
            )
            clients.append(await stack.enter_async_context(client))
        yield KeyedApis(*clients)
