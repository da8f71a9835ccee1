"""Who sends a test's requests: a header says it. Only tests have this authenticator, see `create_app(authenticator=…)`."""

from collections.abc import Mapping

from starlette.requests import HTTPConnection

from infrastructure.access.principal import SCOPES, Principal, Scope
from infrastructure.http.errors import ApiError

HEADER = "x-test-principal"
USER: tuple[Scope, ...] = ("read", "write", "reply")


class HeaderAuthenticator:
    """Takes the principal from the header of `headers_of`. Without the header the answer is 401."""

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        text = connection.headers.get(HEADER)
        if text is None:
            raise ApiError(401, "No principal.", code="missing_credential")
        tenant, subject, scopes = text.split("/")
        return Principal(tenant, subject, frozenset(scope for scope in SCOPES if scope in scopes.split()))


def headers_of(subject: str, *more_scopes: Scope, tenant: str = "default") -> Mapping[str, str]:
    """The headers of a user's request: with the scopes read, write and reply, and more."""
    return {HEADER: f"{tenant}/{subject}/{' '.join((*USER, *more_scopes))}"}
