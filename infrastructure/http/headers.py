"""The headers of conversations and commands."""

import hashlib
import re

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from infrastructure.event_log.append_request import Appended, IdempotencyKey
from infrastructure.http.errors import ApiError

MAX_KEY_BYTES = 255
_TAG = re.compile(r'(?:W/)?"[^"]*"')
_MAX_VERSION = 2**63 - 1


def etag(version: int) -> str:
    return f'"{version}"'


def position_headers(position: int, version: int) -> dict[str, str]:
    return {"x-position": str(position), "etag": etag(version)}


def command_headers(appended: Appended) -> dict[str, str]:
    headers = position_headers(appended.position, appended.version)
    if appended.replayed:
        headers["idempotent-replayed"] = "true"
    return headers


def if_match(headers: Headers) -> frozenset[int] | None:
    """The versions that `If-Match` names. None if the header is absent or `*`. Raises ApiError (400)."""
    tags = _entity_tags(headers, "If-Match")
    if tags is None or tags == ["*"]:
        return None
    # A weak tag never matches (RFC 9110, 13.1.1). A tag that cannot be a version does not match either.
    versions = (int(match[1]) for tag in tags if (match := re.fullmatch(r'"([1-9][0-9]{0,18})"', tag)))
    return frozenset(version for version in versions if version <= _MAX_VERSION)


def is_unmodified(headers: Headers, tag: str) -> bool:
    """Whether `If-None-Match` names this tag, or is `*`. A weak tag equals a strong one (RFC 9110, 13.1.2).

    Raises ApiError (400).
    """
    tags = _entity_tags(headers, "If-None-Match")
    return tags is not None and (tags == ["*"] or tag in (sent.removeprefix("W/") for sent in tags))


def _entity_tags(headers: Headers, name: str) -> list[str] | None:
    """The tags in this header; `["*"]` for `*`. Raises ApiError (400)."""
    lines = headers.getlist(name)
    text = ", ".join(lines).strip(" \t")
    if not lines or text == "*":
        return ["*"] if lines else None
    tags: list[str] = _TAG.findall(text)
    # A tag may contain commas. Empty elements are ignored (RFC 9110, 5.6.1).
    elements = {element.strip(" \t") for element in _TAG.sub("\0", text).split(",")}
    if not tags or elements - {"", "\0"}:
        message = f"`{name}` must be `*` or a list of entity tags in double quotes."
        raise ApiError(400, message, code="invalid_header", param=name)
    return tags


def single_header(headers: Headers, name: str) -> str | None:
    """Raises ApiError (400) if the header was sent more than once."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise ApiError(400, f"`{name}` was sent more than once.", code="invalid_header", param=name)
    return values[0] if values else None


def idempotency_key(connection: HTTPConnection, body: bytes) -> IdempotencyKey | None:
    """The key, with a fingerprint of the method, path and body. Raises ApiError (400).

    A WebSocket's messages have the key of the handshake. Keys are compared byte by byte.
    """
    key = single_header(connection.headers, "Idempotency-Key")
    if key is None:
        return None
    sent = key.encode("latin-1")  # Starlette decoded the header as Latin-1
    if not 0 < len(sent) <= MAX_KEY_BYTES or any(byte < 0x20 or byte == 0x7F for byte in sent):
        message = f"`Idempotency-Key` must be 1 to {MAX_KEY_BYTES} bytes without control characters."
        raise ApiError(400, message, code="invalid_header", param="Idempotency-Key")
    digest = hashlib.sha256(f"{connection.scope.get('method', 'GET')} {connection.url.path}\n".encode())
    digest.update(body)
    return IdempotencyKey(key, digest.digest())
