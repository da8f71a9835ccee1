"""Reads and checks request bodies: strict JSON (RFC 8259) of limited size, without NUL.

Content types other than JSON are refused, because a web page could send some of these without a preflight.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from infrastructure.disk_space import no_space
from infrastructure.http.errors import ApiError, invalid

MAX_BODY_BYTES = 1_500_000
"""For an ordinary body."""

MAX_ITEMS_BODY_BYTES = 8 * 1024 * 1024
"""For a body with items, and for one line of an import."""

MAX_READ_BYTES = 48 * 1024 * 1024
"""The largest body with images and files. At most this much of a body that is too large is read."""

LARGE_BODY_BYTES = 8 * 1024 * 1024
"""A larger body waits on disk until it can be parsed."""

LARGE_BODY_WAIT_SECONDS = 30.0
"""A large body takes about a second to parse."""

MAX_DEPTH = 64
"""Levels of values, counted from 1 for the body."""

_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")
_JSON_LINES = re.compile(r"application/(?:x-)?(?:ndjson|jsonl|jsonlines)|application/(?:[a-z0-9!#$&^_.+-]+\+)?json")

_CONTAINERS = frozenset({dict, list})

_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)

Model = TypeVar("Model", bound=BaseModel)


def check_content_type(headers: Headers, *, lines: bool = False) -> None:
    """Raises ApiError (415). `lines`: JSON lines are accepted too."""
    sent = headers.getlist("content-type")
    media_type = ", ".join(sent).partition(";")[0].strip(" \t").lower()
    if (_JSON_LINES if lines else _JSON).fullmatch(media_type):
        return
    wanted = "application/x-ndjson" if lines else "application/json"
    problem = "has another" if sent else "has none"
    message = f"The request's `Content-Type` must be `{wanted}`. It {problem}."
    raise ApiError(415, message, code="unsupported_media_type", param="Content-Type")


class LargeBody:
    """A body of more than LARGE_BODY_BYTES. Close it."""

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Raises NoSpace."""
        with no_space():
            self._file.write(chunk)
        self.size += len(chunk)

    def read(self) -> bytes:
        with no_space():
            self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        self._file.close()


class LargeBodies:
    """Large bodies are parsed one at a time, because each takes several times its size in memory."""

    def __init__(self, wait_seconds: float = LARGE_BODY_WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._turn = asyncio.Semaphore(1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Use no store and wait for no client in a turn. Raises ApiError (503) if none begins in time."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turn.acquire()
        except TimeoutError as error:
            message = "Too many large bodies are being read. Retry, or send less."
            raise ApiError(503, message, code="too_many_large_bodies") from error
        try:
            yield
        finally:
            self._turn.release()


async def read_body(request: Request, max_bytes: int) -> bytes | LargeBody:
    """Raises ApiError: 413 if the body is too large, 400 if the client disconnects."""
    chunks: list[bytes] = []
    size = 0
    large: LargeBody | None = None
    try:
        async for chunk in request.stream():
            size += len(chunk)
            # Many clients read the answer only after they have sent the whole body.
            if size > MAX_READ_BYTES:
                break
            if size > max_bytes:
                continue
            if large is None and size > LARGE_BODY_BYTES:
                large = LargeBody()
                for earlier in chunks:
                    large.write(earlier)
                chunks.clear()
            if large is None:
                chunks.append(chunk)
            else:
                large.write(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
    except BaseException as error:
        if large is not None:
            large.close()
        if isinstance(error, ClientDisconnect):
            message = "The client disconnected before its request was complete."
            raise ApiError(400, message, code="client_closed") from error
        raise
    if large is not None:
        return large
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def too_large(max_bytes: int) -> ApiError:
    message = f"The body is larger than {max_bytes} bytes."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def validate_body(model: type[Model], body: bytes) -> Model:
    """Raises ApiError (400)."""
    return validate(model, parse_json(body))


def validate(model: type[Model], value: Any) -> Model:
    """Raises ApiError (400)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error, value, getattr(model, "OTHER_NAMES", {})) from error


def parse_json(body: bytes) -> Any:
    """Raises ApiError (400) that says what is wrong."""
    if not body.strip():
        raise ApiError(400, "The body is empty. Send a JSON object.", code="invalid_json")
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8 (byte {error.start}).", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.MsgspecError, ValueError) as error:
        if _has_half_pairs(body):
            message = "The body has half of a surrogate pair: an escape such as `\\ud83d` without its other half."
            raise ApiError(400, message, code="invalid_json") from error
        raise ApiError(400, f"The body is not valid JSON: {_reason(error)}.", code="invalid_json") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    if b"\\u0000" in body and (path := _find_nul(value)) is not None:
        raise ApiError(400, f"`{path}` contains a NUL character.", code="invalid_value", param=path)
    return value


def _has_half_pairs(body: bytes) -> bool:
    """Whether half of a surrogate pair is why this JSON text was refused."""
    if _HALF_PAIR.search(body) is None:
        return False
    try:
        json.loads(body)  # accepts halves of pairs
    except (ValueError, RecursionError):
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def _too_deep() -> ApiError:
    return ApiError(400, f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_value")


def _depth(value: Any) -> int:
    """At most MAX_DEPTH + 1. Does not recurse, because recursion could exhaust the stack."""
    depth = 0
    level = [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            if type(outer) in _CONTAINERS
            for inner in (outer.values() if type(outer) is dict else outer)
        ]
    return depth


def _find_nul(value: Any, path: str = "") -> str | None:
    """The path of the first string with a NUL. For a key, the path of its object."""
    if isinstance(value, str):
        return path or "body" if "\0" in value else None
    if isinstance(value, dict):
        for name, inner in value.items():
            if "\0" in name:
                return path or "body"
            if (nul_path := _find_nul(inner, f"{path}.{name}" if path else name)) is not None:
                return nul_path
    if isinstance(value, list):
        for index, inner in enumerate(value):
            if (nul_path := _find_nul(inner, f"{path}[{index}]")) is not None:
                return nul_path
    return None
