"""An API key: its text `cs_<id>_<secret>`, and what the store keeps of it.

The store keeps the SHA-256 of the secret. A slow hash is not needed, because nobody can guess 256 random bits.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

from msgspec import Struct

from infrastructure.access.identity import MAX_SUBJECT_BYTES, is_subject, is_tenant
from infrastructure.access.principal import SCOPES, Scope
from infrastructure.ids import KEY, mint

TEXT_PREFIX: Final = "cs_"
MAX_NAME_LENGTH: Final = 512
MAX_EXPIRES_AT: Final = 253_402_300_799

_SECRET_BYTES = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TEXT = re.compile(r"cs_([0-9a-f]{32})_([0-9a-f]{64})")


class InvalidField(ValueError):
    """The message does not contain the field's value."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class ApiKey(Struct, frozen=True, kw_only=True, tag_field="object", tag="key"):
    """An API key, without its secret. Times in seconds since 1970, UTC. `last_used_at` is stored up to half a minute after the use."""

    id: str
    name: str | None
    tenant: str
    subject: str
    scopes: list[Scope]
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None


class CreatedApiKey(ApiKey, frozen=True, kw_only=True, tag_field="object", tag="key"):
    """A new API key. `secret` is the text that clients send. It is shown only here: the store does not keep it."""

    secret: str


def new_key(
    *, tenant: str, subject: str, scopes: Sequence[str], name: str | None, expires_at: int | None, now: datetime
) -> CreatedApiKey:
    """Raises InvalidField."""
    if not is_tenant(tenant):
        raise InvalidField("tenant", "A tenant is 1 to 64 letters, digits, `.`, `_` and `-`.")
    if not is_subject(subject):
        raise InvalidField("subject", f"A subject is 1 to {MAX_SUBJECT_BYTES} bytes without control characters.")
    if not scopes or not SCOPES.issuperset(scopes):
        raise InvalidField("scopes", f"A key has one or more of these scopes: {', '.join(sorted(SCOPES))}.")
    if name is not None and (not 0 < len(name) <= MAX_NAME_LENGTH or _CONTROL.search(name)):
        raise InvalidField("name", f"A name is 1 to {MAX_NAME_LENGTH} characters without control characters.")
    if expires_at is not None and not now.timestamp() < expires_at <= MAX_EXPIRES_AT:
        raise InvalidField("expires_at", "`expires_at` must be in the future and before the year 10000.")
    key_id = mint(KEY)
    return CreatedApiKey(
        id=key_id,
        name=name,
        tenant=tenant,
        subject=subject,
        scopes=cast("list[Scope]", sorted({*scopes})),
        expires_at=expires_at,
        last_used_at=None,
        revoked_at=None,
        secret=f"{TEXT_PREFIX}{key_id.removeprefix(f'{KEY}_')}_{secrets.token_hex(_SECRET_BYTES)}",
    )


def split_text(text: str) -> tuple[str, str] | None:
    """The id and the secret in a key's text."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (f"{KEY}_{match[1]}", match[2])


def secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def from_seconds(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
