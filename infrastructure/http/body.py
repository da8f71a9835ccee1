"""Request bodies: strict JSON, read with a bound, so that nothing gets in that could not be stored and given back."""

from typing import Any

import msgspec
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Scope

from infrastructure.http.errors import ApiError

LARGEST_BODY = 1_500_000
"""Bytes. Above it a request is a 413, and none of it is kept."""

READ_AT_MOST = 32_000_000
"""Bytes of a body too large that are read and dropped before the connection is."""

DEEPEST = 64
"""Levels that objects and lists may be nested."""


_CLOSE = {"connection": "close"}


class StrictRequest(Request):
    """A request whose JSON is what RFC 8259 says: UTF-8, no NaN, no lone surrogates; and here no NUL either."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            pieces: list[bytes] = []
            size = 0
            async for piece in self.stream():
                size += len(piece)
                # What is too much is thrown away for a while, so that a client that is still sending reads the answer.
                if size > READ_AT_MOST:
                    break
                if size <= LARGEST_BODY:
                    pieces.append(piece)
            if size > LARGEST_BODY:
                raise ApiError(
                    413, f"The body is larger than {LARGEST_BODY} bytes.", code="request_too_large", headers=_CLOSE
                )
            self._body = b"".join(pieces)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_strict_json"):
            self._strict_json = parse(await self.body())
        return self._strict_json


class StrictRoute(APIRoute):
    """A route that reads its body as a StrictRequest, whatever content type the client claims."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Any:
            return await handle(StrictRequest(_as_json(request.scope), request.receive))

        return handle_strictly


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
    if body.count(b"[") + body.count(b"{") > DEEPEST and _depth(value) > DEEPEST:
        raise _too_deep()
    if b"\\u0000" in body and (where := _find_nul(value)) is not None:
        raise ApiError(400, f"`{where}` holds a NUL character.", code="invalid_value", param=where)
    return value


def _reason(error: Exception) -> str:
    # The decoder calls a lone surrogate at the end of its input "truncated"; its own words are no help there.
    return str(error).removeprefix("JSON is malformed: ")


def _too_deep() -> ApiError:
    return ApiError(400, f"The body is nested deeper than {DEEPEST} levels.", code="invalid_value")


def _depth(value: Any) -> int:
    """Levels of nesting, found level by level so that no depth can exhaust the stack."""
    depth = 0
    level = [value]
    while level and depth <= DEEPEST:
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


def _as_json(scope: Scope) -> Scope:
    """The scope with a JSON content type: this API speaks nothing else, and `curl -d` says it sends a form."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
