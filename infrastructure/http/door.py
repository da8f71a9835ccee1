"""Checks the credential of requests and WebSockets before their route runs, except for OPEN_PATHS and OPTIONS."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Final, Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from infrastructure.access import principal
from infrastructure.access.act_as import acting_as
from infrastructure.access.api_keys import ApiKeys
from infrastructure.access.bearer import BearerAuthenticator
from infrastructure.access.principal import ANONYMOUS, Principal
from infrastructure.access.refusals import CannotCheckCredential, NotPermitted
from infrastructure.access.tokens import TokenVerifier
from infrastructure.settings import Settings

OPEN_PATHS: Final = frozenset(
    {
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/docs",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "/docs/favicon.png",
    }
)
"""Paths that need no credential. They are compared byte for byte."""


CHECK_SECONDS: Final = 2.0


class Authenticator(Protocol):
    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Raises the errors of `infrastructure/access/refusals.py`."""


class NoLogin:
    """For AUTH_MODE=none."""

    async def authenticate(self, _: HTTPConnection) -> Principal:
        return ANONYMOUS


def authenticator_of(settings: Settings) -> Authenticator:
    """The apps of a process share one authenticator, because it remembers what it has checked."""
    if settings.auth_mode == "none":
        return NoLogin()
    return BearerAuthenticator(
        tokens=TokenVerifier(settings) if "jwt" in settings.auth_mode else None,
        keys=ApiKeys(settings.postgres_url) if "keys" in settings.auth_mode else None,
    )


def opened(authenticator: Authenticator) -> AbstractAsyncContextManager[None]:
    """Keeps the API keys up to date until the end of the `with` block."""
    return authenticator.opened() if isinstance(authenticator, BearerAuthenticator) else nullcontext()


class AccessMiddleware:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _is_open(scope):
            scope["state"]["authenticator"] = self._authenticator
            await authenticate(HTTPConnection(scope))
        await self._app(scope, receive, send)


async def authenticate(connection: HTTPConnection) -> None:
    """Sets `connection.state.principal`. Called again for each message of a WebSocket, and by `check_admitted`.

    Raises what the authenticator and `acting_as` raise.
    """
    authenticator: Authenticator = connection.state.authenticator
    connection.state.principal = acting_as(await authenticator.authenticate(connection), connection.headers)


def may_be_refused(connection: HTTPConnection) -> bool:
    """Whether an answer that has begun must end when its credential becomes invalid.

    An expired token ends only answers to GET, so a reply that was requested in time is sent to its end.
    """
    sender: Principal = connection.state.principal
    return sender.key_id is not None or (sender != ANONYMOUS and connection.scope.get("method") == "GET")


async def until_refused(connection: HTTPConnection) -> None:
    """Checks the credential every CHECK_SECONDS. Raises what `check_admitted` raises."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        await check_admitted(connection)


async def check_admitted(connection: HTTPConnection) -> None:
    """Raises InvalidCredential or NotPermitted. Does nothing if the credential cannot be checked now."""
    with suppress(CannotCheckCredential):
        await authenticate(connection)


def principal_with(connection: HTTPConnection, scope: principal.Scope) -> Principal:
    """Raises NotPermitted if the principal's scopes do not allow `scope`."""
    sender: Principal = connection.state.principal
    if not sender.may(scope):
        raise NotPermitted("missing_scope", f"This needs the scope `{scope}`, which the credential does not have.")
    return sender


def _is_open(scope: Scope) -> bool:
    return scope["type"] == "http" and (scope["method"] == "OPTIONS" or scope["path"] in OPEN_PATHS)
