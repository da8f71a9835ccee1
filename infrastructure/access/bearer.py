"""The credential of a request (`Authorization: Bearer …`): an API key or a token."""

import re
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Protocol

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from infrastructure.access.api_keys import ApiKeys
from infrastructure.access.principal import Principal
from infrastructure.access.refusals import InvalidCredential

KEY_PREFIX: Final = "cs_"
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


class CredentialCheck(Protocol):
    async def principal_of(self, credential: str) -> Principal:
        """Raises InvalidCredential and CannotCheckCredential."""


class BearerAuthenticator:
    """Finds the principal of a request. `tokens` or `keys` is None if AUTH_MODE does not name it."""

    def __init__(self, *, tokens: CredentialCheck | None = None, keys: ApiKeys | None = None) -> None:
        self._tokens = tokens
        self._keys = keys

    def opened(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._keys is None else self._keys.opened()

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Raises InvalidCredential and CannotCheckCredential."""
        credential = _credential(connection.headers)
        check = self._keys if credential.startswith(KEY_PREFIX) else self._tokens
        if check is not None:
            return await check.principal_of(credential)
        if self._keys is None:
            raise InvalidCredential("invalid_api_key", "This store has no API keys. Send a token of the user service.")
        raise InvalidCredential("invalid_api_key", "The API key is not valid: keys of this store begin with `cs_`.")


def _credential(headers: Headers) -> str:
    sent = headers.getlist("authorization")
    if not sent:
        raise InvalidCredential("missing_credential", "Send a credential: `Authorization: Bearer …`.")
    if len(sent) > 1:
        raise InvalidCredential("invalid_credential", "`Authorization` was sent more than once.")
    bearer = _BEARER.fullmatch(sent[0])
    if bearer is None:
        raise InvalidCredential("invalid_credential", "`Authorization` must be `Bearer`, a space and a credential.")
    return bearer[1]
