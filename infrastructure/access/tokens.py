"""Tokens of the user service: JSON Web Tokens (RFC 7519, 8725).

The keys decide which algorithms are accepted. The token does not. A verified token is remembered by its hash, so most
requests need no signature check.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    MissingRequiredClaimError,
    PyJWTError,
)
from msgspec import Struct

from infrastructure.access.identity import MAX_SUBJECT_BYTES, is_subject, is_tenant
from infrastructure.access.jwks import JwksKeys
from infrastructure.access.principal import SCOPES, Principal, Scope
from infrastructure.access.refusals import InvalidCredential
from infrastructure.settings import Settings

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_REMEMBERED: Final = 10_000

_MAX_TIME: Final = 253_402_300_799

_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Minimum lengths of the secret, in bytes (RFC 7518, 3.2)."""

_MESSAGES: Final[tuple[tuple[type[PyJWTError], str], ...]] = (
    (ExpiredSignatureError, "The token has expired."),
    (ImmatureSignatureError, "The token is not valid yet."),
    (InvalidAudienceError, "The token is for another audience."),
    (InvalidIssuerError, "The token is from another issuer."),
)


class KeySource(Protocol):
    @property
    def current(self) -> object:
        """Becomes a new object when the keys change. Remembered tokens are then verified again."""

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | bytes | None:
        """Raises CannotCheckCredential."""


class SecretKey:
    """Uses the secret as the key of each algorithm for which the secret is long enough."""

    current = None

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._algorithms = {name for name, shortest in _SECRET_BYTES.items() if len(secret) >= shortest}

    async def find(self, _: str | None, algorithm: str) -> bytes | None:
        return self._secret if algorithm in self._algorithms else None


class _Verified(Struct, frozen=True):
    principal: Principal
    ends_at: float
    """Seconds since 1970, with the allowed clock skew."""
    keys: object
    """`KeySource.current` at the time of verification."""


class TokenVerifier:
    def __init__(
        self, settings: Settings, keys: KeySource | None = None, *, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        self._settings = settings
        self._max_remembered = max_remembered
        secret = settings.auth_secret.get_secret_value().encode()
        self._keys: KeySource = keys or (SecretKey(secret) if secret else JwksKeys(settings.auth_jwks_url))
        self._verified: dict[bytes, _Verified] = {}

    async def principal_of(self, token: str) -> Principal:
        """Raises InvalidCredential and CannotCheckCredential."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._verified.get(digest)
        if verified is not None and verified.keys is self._keys.current and time.time() < verified.ends_at:
            return verified.principal
        self._verified.pop(digest, None)
        claims = await self._claims(token)
        principal = self._principal(claims)
        if len(self._verified) >= self._max_remembered:
            del self._verified[next(iter(self._verified))]
        ends_at = claims["exp"] + self._settings.auth_clock_skew
        self._verified[digest] = _Verified(principal, ends_at, self._keys.current)
        return principal

    async def _claims(self, token: str) -> Mapping[str, Any]:
        """Raises InvalidCredential and CannotCheckCredential."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            key = await self._keys.find(header.get("kid"), algorithm) if isinstance(algorithm, str) else None
            if key is None:
                raise _refused("The token is not signed with a key and an algorithm that this store accepts.")
            claims = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],  # `find` has accepted the algorithm
                audience=settings.auth_audience or None,
                issuer=settings.auth_issuer or None,
                leeway=settings.auth_clock_skew,
                options={"require": ["exp"], "verify_sub": False, "verify_jti": False},
            )
        except MissingRequiredClaimError as error:
            raise _refused(f"The token has no claim `{error.claim}`.") from None
        except PyJWTError as error:
            message = next((text for kind, text in _MESSAGES if isinstance(error, kind)), "The token is not valid.")
            raise _refused(message) from None  # the library's message may contain parts of the token
        if not _is_time(claims["exp"]):
            raise _refused("The token's claim `exp` is not a time.")
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        tenant, subject = claims.get(settings.auth_tenant_claim), claims.get(settings.auth_subject_claim)
        if not is_tenant(tenant):
            raise _refused(
                f"The token's claim `{settings.auth_tenant_claim}` must name a tenant: 1 to 64 letters, digits, `.`, `_` and `-`."
            )
        if not is_subject(subject):
            raise _refused(
                f"The token's claim `{settings.auth_subject_claim}` must name a user: 1 to {MAX_SUBJECT_BYTES} bytes without control characters."
            )
        return Principal(str(tenant), str(subject), _scopes(claims.get(settings.auth_scope_claim)))


def _scopes(claim: object) -> frozenset[Scope]:
    """Other words, such as `openid`, are for other services."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return frozenset(scope for scope in SCOPES if scope in words)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TIME


def _refused(message: str) -> InvalidCredential:
    return InvalidCredential("invalid_token", message)
