"""The headers of a conversation: `ETag`, `If-Match`, `X-Position`, `Idempotency-Key`, `X-Min-Position`."""

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header, Request

from infrastructure.event_log.work import Appended, IdempotencyKey
from infrastructure.http.errors import ApiError

LONGEST_KEY = 255
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_LARGEST_VERSION = 2**63 - 1


def etag(version: int) -> str:
    """A conversation's version as an entity tag."""
    return f'"{version}"'


def placed(position: int, version: int) -> dict[str, str]:
    """Where an answer stands in the log."""
    return {"x-position": str(position), "etag": etag(version)}


def answer_headers(appended: Appended) -> dict[str, str]:
    """What every command answers with: where it stands in the log, and the conversation's version."""
    headers = placed(appended.position, appended.version)
    if appended.replayed:
        headers["idempotent-replayed"] = "true"
    return headers


async def if_match(
    if_match: Annotated[str | None, Header(description="Versions the command may be decided on.")] = None,
) -> frozenset[int] | None:
    """The versions that `If-Match` names; None where it is absent or `*` (the conversation exists, which is checked anyway)."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [part.strip() for part in if_match.split(",")]
    versions: set[int] = set()
    for tag in tags:
        match = _TAG.fullmatch(tag)
        if match is None:
            raise ApiError(
                400,
                "`If-Match` is `*` or a list of entity tags in double quotes.",
                code="invalid_header",
                param="If-Match",
            )
        # A weak tag, or one that is no version of ours, never matches (RFC 9110, 13.1.1), which is not malformed.
        if tag.startswith('"') and re.fullmatch(r"[0-9]{1,19}", match[1]) and int(match[1]) <= _LARGEST_VERSION:
            versions.add(int(match[1]))
    return frozenset(versions)


async def idempotency(
    request: Request, idempotency_key: Annotated[str | None, Header(description="Makes the command repeatable.")] = None
) -> IdempotencyKey | None:
    """The request's key with a fingerprint of its method, path and body; None where it has no key."""
    if idempotency_key is None:
        return None
    if not 0 < len(idempotency_key.encode()) <= LONGEST_KEY or not idempotency_key.isprintable():
        raise ApiError(
            400,
            f"`Idempotency-Key` is 1 to {LONGEST_KEY} bytes without control characters.",
            code="invalid_header",
            param="Idempotency-Key",
        )
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return IdempotencyKey(idempotency_key, digest.digest())


IfMatch = Annotated[frozenset[int] | None, Depends(if_match)]
Idempotency = Annotated[IdempotencyKey | None, Depends(idempotency)]
