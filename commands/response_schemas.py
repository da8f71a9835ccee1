"""Checks the JSON Schemas in a request for a reply. It does so in another thread, because large ones take seconds."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]  # it has no types
from msgspec import Struct

from infrastructure.http.errors import ApiError

MAX_SCHEMAS_BYTES = 256 * 1024
"""Bytes of all the schemas of a request, as JSON text. Checking schemas of this size takes some seconds."""

MAX_CACHED_SCHEMAS = 256
"""Results that are cached: a client that uses tools sends the same schemas with every request."""


class RequestSchema(Struct, frozen=True):
    """A JSON Schema in a request, and how to report what is wrong with it. `name`: the name of its tool or format."""

    schema: Any
    param: str
    name: str
    code: str


class SchemaChecker:
    """Checks schemas in `executor`, so that the event loop does not wait."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._problem_of = lru_cache(MAX_CACHED_SCHEMAS)(_problem_of)

    async def check(self, schemas: Sequence[RequestSchema]) -> None:
        """Raises ApiError (400) if one is not a JSON Schema of an object, or all together are too large."""
        if schemas:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._check, schemas)

    def _check(self, schemas: Sequence[RequestSchema]) -> None:
        size = 0
        for request_schema in schemas:
            encoded = msgspec.json.encode(request_schema.schema)
            size += len(encoded)
            if size > MAX_SCHEMAS_BYTES:
                problem: str | None = f"the schemas of a request may have at most {MAX_SCHEMAS_BYTES} bytes together"
            else:
                problem = self._problem_of(encoded)
            if problem is not None:
                message = f"Invalid schema for {request_schema.name[:64]!r}: {problem}."
                raise ApiError(400, message, code=request_schema.code, param=request_schema.param)


def _problem_of(encoded: bytes) -> str | None:
    """Why this JSON text is not a JSON Schema of an object; None if it is one."""
    schema = msgspec.json.decode(encoded)
    if not isinstance(schema, dict):
        return "it must be an object"
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError, ValueError, TypeError, ArithmeticError) as error:
        path = ".".join(str(step)[:64] for step in getattr(error, "path", ()))
        return f"it is not valid at {path!r}" if path else "it is not valid"
    return None if schema.get("type", "object") == "object" else "its `type` must be 'object'"
