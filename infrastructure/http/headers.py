"""The headers of conversations and commands: `ETag`, `If-Match`, `If-None-Match`, `X-Position`, `Idempotency-Key`, `Idempotent-Replayed`."""

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
    """A conversation's version as an entity tag."""
    return f'"{version}"'


def position_headers(position: int, version: int) -> dict[str, str]:
    """The log position and the conversation version that an answer shows."""
    return {"x-position": str(position), "etag": etag(version)}


def command_headers(appended: Appended) -> dict[str, str]:
    """The headers of every command's answer."""
    headers = position_headers(appended.position, appended.version)
    if appended.replayed:
        headers["idempotent-replayed"] = "true"
    return headers


def if_match(headers: Headers) -> frozenset[int] | None:
    """The versions that `If-Match` names. None if the header is absent or `*`.

    Any existing conversation matches `*`. Raises ApiError (400) if the header is malformed.
    """
    tags = _entity_tags(headers, "If-Match")
    if tags is None or tags == ["*"]:
        return None
    # A weak tag, or a tag that cannot be a version, is well-formed but never matches (RFC 9110, 13.1.1).
    versions = (int(match[1]) for tag in tags if (match := re.fullmatch(r'"([1-9][0-9]{0,18})"', tag)))
    return frozenset(version for version in versions if version <= _MAX_VERSION)


def is_unmodified(headers: Headers, tag: str) -> bool:
    """Whether `If-None-Match` names this tag, or is `*`. A weak tag equals a strong one here (RFC 9110, 13.1.2).

    Raises ApiError (400) if the header is malformed.
    """
    tags = _entity_tags(headers, "If-None-Match")
    return tags is not None and (tags == ["*"] or tag in (sent.removeprefix("W/") for sent in tags))


def _entity_tags(headers: Headers, name: str) -> list[str] | None:
    """The entity tags in a header; `["*"]` for `*`; None if the header is absent.

    Raises ApiError (400) if it is malformed.
    """
    lines = headers.getlist(name)
    text = ", ".join(lines).strip(" \t")
    if not lines or text == "*":
        return ["*"] if lines else None
    tags: list[str] = _TAG.findall(text)
    # A tag may contain commas. Empty elements of the list are ignored (RFC 9110, 5.6.1).
    elements = {element.strip(" \t") for element in _TAG.sub("\0", text).split(",")}
    if not tags or elements - {"", "\0"}:
        message = f"`{name}` must be `*` or a list of entity tags in double quotes."
        raise ApiError(400, message, code="invalid_header", param=name)
    return tags


def single_header(headers: Headers, name: str) -> str | None:
    """The header's value; None if it is absent. Raises ApiError (400) if it was sent more than once."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise ApiError(400, f"`{name}` was sent more than once.", code="invalid_header", param=name)
    return values[0] if values else None


def idempotency_key(connection: HTTPConnection, body: bytes) -> IdempotencyKey | None:
    """The request's key, with a fingerprint of its method, path and body. None if it has no key.

    Raises ApiError (400) if the key is empty, too long or has control characters, or if it was sent more than once.

    A message on a WebSocket has the key of the handshake. A key may have any bytes except control characters, so it
    may be UTF-8. Keys are compared byte by byte, without Unicode normalization.
    """
    key = single_header(connection.headers, "Idempotency-Key")
    if key is None:
        return None
    sent = key.encode("latin-1")  # Starlette decoded it as Latin-1
    if not 0 < len(sent) <= MAX_KEY_BYTES or any(byte < 0x20 or byte == 0x7F for byte in sent):
        message = f"`Idempotency-Key` must be 1 to {MAX_KEY_BYTES} bytes without control characters."
        raise ApiError(400, message, code="invalid_header", param="Idempotency-Key")
    digest = hashlib.sha256(f"{connection.scope.get('method', 'GET')} {connection.url.path}\n".encode())
    digest.update(body)
    return IdempotencyKey(key, digest.digest())
