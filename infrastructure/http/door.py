"""Checks the credential of every request and every WebSocket before its route runs.

A request with a valid credential gets a Principal. Any other request is refused. OPTIONS and the open paths need no
credential.
"""

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
"""The paths that need no credential. A path is open only if it equals one of these, byte for byte."""


CHECK_SECONDS: Final = 2.0


class Authenticator(Protocol):
    """Finds the principal of a request."""

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Raises the errors of `infrastructure/access/refusals.py`."""


class NoLogin:
    """For AUTH_MODE=none: every request comes from ANONYMOUS."""

    async def authenticate(self, _: HTTPConnection) -> Principal:
        return ANONYMOUS


def authenticator_of(settings: Settings) -> Authenticator:
    """The authenticator that AUTH_MODE names.

    The apps of a process share one authenticator, because it remembers what it has checked.
    """
    if settings.auth_mode == "none":
        return NoLogin()
    return BearerAuthenticator(
        tokens=TokenVerifier(settings) if "jwt" in settings.auth_mode else None,
        keys=ApiKeys(settings.postgres_url) if "keys" in settings.auth_mode else None,
    )


def opened(authenticator: Authenticator) -> AbstractAsyncContextManager[None]:
    """Keeps the authenticator's API keys up to date until the end of the `with` block. Each app that uses the authenticator opens it."""
    return authenticator.opened() if isinstance(authenticator, BearerAuthenticator) else nullcontext()


class AccessMiddleware:
    """ASGI middleware. It puts the principal into `request.state.principal`. The middleware around it answers its errors."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _is_open(scope):
            scope["state"]["authenticator"] = self._authenticator
            await authenticate(HTTPConnection(scope))
        await self._app(scope, receive, send)


async def authenticate(connection: HTTPConnection) -> None:
    """Finds the principal of the request, and puts it into `connection.state.principal`.

    This is done again for each message of a WebSocket: its token may have expired, or its key may have been revoked.
    Raises what the authenticator raises, and what `acting_as` raises.
    """
    authenticator: Authenticator = connection.state.authenticator
    connection.state.principal = acting_as(await authenticator.authenticate(connection), connection.headers)


def may_be_refused(connection: HTTPConnection) -> bool:
    """Whether an answer that has begun must end when the credential of its request is no longer valid.

    A key that was revoked or has expired ends every answer. An expired token ends only the answers to GET: a reply
    that was requested in time is sent to its end.
    """
    sender: Principal = connection.state.principal
    return sender.key_id is not None or (sender != ANONYMOUS and connection.scope.get("method") == "GET")


async def until_refused(connection: HTTPConnection) -> None:
    """Checks the connection's credential every CHECK_SECONDS. Raises what `check_admitted` raises."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        await check_admitted(connection)


async def check_admitted(connection: HTTPConnection) -> None:
    """Raises InvalidCredential or NotPermitted if the connection's credential is no longer valid.

    Does nothing if the credential cannot be checked at the moment. This is mostly a look-up in memory.
    """
    with suppress(CannotCheckCredential):
        await authenticate(connection)


def principal_with(connection: HTTPConnection, scope: principal.Scope) -> Principal:
    """The request's principal. Raises NotPermitted if its scopes do not allow `scope`."""
    sender: Principal = connection.state.principal
    if not sender.may(scope):
        raise NotPermitted("missing_scope", f"This needs the scope `{scope}`, which the credential does not have.")
    return sender


def _is_open(scope: Scope) -> bool:
    return scope["type"] == "http" and (scope["method"] == "OPTIONS" or scope["path"] in OPEN_PATHS)
