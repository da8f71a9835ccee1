"""An authenticator for tests: a header names the principal of a request."""

from collections.abc import Mapping

import msgspec
from starlette.requests import HTTPConnection

from infrastructure.access.principal import SCOPES, Principal, Scope
from infrastructure.access.refusals import InvalidCredential

HEADER = "x-test-principal"
USER: tuple[Scope, ...] = ("read", "write", "reply")


class HeaderAuthenticator:
    async def authenticate(self, connection: HTTPConnection) -> Principal:
        text = connection.headers.get(HEADER)
        if text is None:
            raise InvalidCredential("missing_credential", "No principal.")
        tenant, subject, scopes = text.split("/")
        return Principal(tenant, subject, frozenset(scope for scope in SCOPES if scope in scopes.split()))


def headers_of(subject: str, *more_scopes: Scope, tenant: str = "default") -> Mapping[str, str]:
    """The headers of a user with the scopes read, write, reply and `more_scopes`."""
    return {HEADER: f"{tenant}/{subject}/{' '.join((*USER, *more_scopes))}"}


class RevocableAuthenticator(HeaderAuthenticator):
    """Refuses the subjects in `revoked`."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        sender = await super().authenticate(connection)
        if sender.subject in self.revoked:
            raise InvalidCredential("invalid_api_key", "The key was revoked.")
        return msgspec.structs.replace(sender, key_id=f"key_{sender.subject}")
