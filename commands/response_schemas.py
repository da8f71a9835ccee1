"""Checks the JSON Schemas in a request for a reply."""

from collections.abc import Iterable
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import Struct

from infrastructure.http.errors import ApiError

MAX_SCHEMAS_BYTES = 256 * 1024
"""The most bytes of all schemas of a request. Checking this many takes about 5 ms."""

_META_SCHEMA = jsonschema_rs.Draft202012Validator(
    {"$ref": "https://json-schema.org/draft/2020-12/schema"}, validate_formats=True
)
"""Never loads a schema that the checked schema names with `$ref` or `$schema`."""


class RequestSchema(Struct, frozen=True):
    schema: Any
    param: str
    name: str
    code: str


def check_schemas(schemas: Iterable[RequestSchema]) -> None:
    """Raises ApiError (400)."""
    size = 0
    for request_schema in schemas:
        size += len(msgspec.json.encode(request_schema.schema))
        if size > MAX_SCHEMAS_BYTES:
            problem: str | None = f"the schemas of a request may have at most {MAX_SCHEMAS_BYTES} bytes together"
        else:
            problem = _problem_of(request_schema.schema)
        if problem is not None:
            message = f"Invalid schema for {request_schema.name[:64]!r}: {problem}."
            raise ApiError(400, message, code=request_schema.code, param=request_schema.param)


def _problem_of(schema: Any) -> str | None:
    if not isinstance(schema, dict):
        return "it must be an object"
    try:
        _META_SCHEMA.validate(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        path = ".".join(str(step)[:64] for step in getattr(error, "instance_path", ()))
        return f"it is not valid at {path!r}" if path else "it is not valid"
    return None if schema.get("type", "object") == "object" else "its `type` must be 'object'"
