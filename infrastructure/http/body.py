"""Request bodies: strict JSON, read with a bound, so that nothing gets in that could not be stored and given back.

JSON is what RFC 8259 says: UTF-8, no NaN, no lone surrogates; and here no NUL either. The client's content type is not asked.
"""

from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from infrastructure.http.errors import ApiError, invalid

MAX_BODY_BYTES = 1_500_000
"""Bytes. Above it a request is a 413, and none of it is kept."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""The same for a request that carries items."""

MAX_READ_BYTES = 32 * 1024 * 1024
"""Bytes of a body too large that are read and dropped before the connection is."""

MAX_DEPTH = 64
"""Levels that objects and lists may be nested."""

Model = TypeVar("Model", bound=BaseModel)


async def read(request: Request, largest: int) -> bytes:
    """The request's body. Raises ApiError (413) when it is larger, at once where the client says so beforehand."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            # What is too much is thrown away for a while, so that a client that is still sending reads the answer.
            if size > MAX_READ_BYTES:
                break
            if size <= largest:
                pieces.append(piece)
    except ClientDisconnect as error:
        raise ApiError(400, "The client hung up before its request was whole.", code="client_closed") from error
    if size > largest:
        message = f"The body is larger than {largest} bytes."
        raise ApiError(413, message, code="request_too_large", headers={"connection": "close"})
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def validated(model: type[Model], body: bytes) -> Model:
    """The body as its model. Raises ApiError (400): not JSON, or not of that shape."""
    try:
        return model.model_validate(parse(body))
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False, include_input=False)[0]) from error


def parse(body: bytes) -> Any:
    """The JSON value in `body`. Raises ApiError (400) that says what is wrong with it."""
    if not body.strip():
        raise ApiError(400, "The body is empty; it should be a JSON object.", code="invalid_json")
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8 (byte {error.start}).", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ApiError(400, f"The body is not valid JSON: {_reason(error)}.", code="invalid_json") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    if b"\\u0000" in body and (where := _find_nul(value)) is not None:
        raise ApiError(400, f"`{where}` holds a NUL character.", code="invalid_value", param=where)
    return value


def _reason(error: Exception) -> str:
    # The decoder calls a lone surrogate at the end of its input "truncated"; its own words are no help there.
    return str(error).removeprefix("JSON is malformed: ")


def _too_deep() -> ApiError:
    return ApiError(400, f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_value")


def _depth(value: Any) -> int:
    """Levels of nesting, found level by level so that no depth can exhaust the stack."""
    depth = 0
    level = [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [v for each in inner for v in (each.values() if isinstance(each, dict) else each)]
    return depth


def _find_nul(value: Any, path: str = "") -> str | None:
    """The path of the first string that holds a NUL; its key's where a key does."""
    if isinstance(value, str):
        return path or "body" if "\0" in value else None
    if isinstance(value, dict):
        for name, inner in value.items():
            if "\0" in name:
                return path or "body"
            if (found := _find_nul(inner, f"{path}.{name}" if path else name)) is not None:
                return found
    if isinstance(value, list):
        for index, inner in enumerate(value):
            if (found := _find_nul(inner, f"{path}[{index}]")) is not None:
                return found
    return None
