"""Checks the status, headers, media type and body of answers against the OpenAPI document."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from typing import Any

import httpx
import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from starlette.applications import Starlette

from infrastructure.http.operations import EVENT_STREAM, JSON, OCTETS
from infrastructure.http.web_pages import HEADER_NAMES

_OF_HTTP = {
    *HEADER_NAMES,
    "allow",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "vary",
    "x-accel-buffering",
}
"""Headers that the document may leave out."""

_MAX_BYTES = 64 * 1024
"""Larger bodies are not checked, because the check would take too long."""

_NAMED_IN_PART = "ResponseEvent"
"""The schema that names only some fields, because each type of event has fields of its own."""

_documents: dict[str, "AnswerCheck"] = {}


def checked_answers(side: str, app: Starlette) -> Mapping[str, list[Callable[[httpx.Response], Awaitable[None]]]]:
    """Hooks for an httpx client, which check each answer. `side` names the API."""

    async def check(answer: httpx.Response) -> None:
        if side not in _documents:
            _documents[side] = AnswerCheck(app.state.openapi())
        await answer.aread()
        path = answer.request.url.path
        _documents[side].check(answer.request.method, path, answer.status_code, answer.headers, answer.content)

    return {"response": [check]}


class AnswerCheck:
    """Checks answers against one document. A field that the document does not name is an error."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._components = _closed(document["components"])
        self._components["schemas"].get(_NAMED_IN_PART, {}).pop("additionalProperties", None)
        self._paths = {_pattern(path): operations for path, operations in document["paths"].items()}
        self._validator = cache(self._new_validator)

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises AssertionError if the answer does not fit."""
        operation = self._operation("GET" if method == "HEAD" else method, path)
        if operation is None:
            return
        name = f"{operation['operationId']}: {status}"
        assert str(status) in operation["responses"], f"{name} is not in the document: {body[:300]!r}"
        documented = self._resolved(operation["responses"][str(status)])
        unknown = (
            {header.lower() for header in headers} - {header.lower() for header in documented["headers"]} - _OF_HTTP
        )
        assert not unknown, f"{name} has headers that are not in the document: {unknown}"
        if not documented["content"]:
            assert not body, f"{name} has a body"
            return
        media_type = headers["content-type"].partition(";")[0]
        assert media_type in documented["content"], f"{name} has the media type {media_type}"
        if method == "HEAD" or len(body) > _MAX_BYTES:
            return
        if media_type == OCTETS:
            return
        if media_type == EVENT_STREAM:
            item_schema = documented["content"][EVENT_STREAM]["itemSchema"]
            schema, values = item_schema["properties"]["data"]["contentSchema"], _event_data(body)
        else:
            schema, values = documented["content"][JSON]["schema"], iter([body])
        validator = self._validator(msgspec.json.encode(schema))
        for value in values:
            errors = [
                f"{error.json_path}: {error.message}" for error in validator.iter_errors(msgspec.json.decode(value))
            ]
            assert not errors, f"{name} does not have the shape of the document: {errors} in {value[:1000]!r}"

    def _operation(self, method: str, path: str) -> Any:
        """None if the document lacks the path or the method."""
        found = [operations for pattern, operations in self._paths.items() if pattern.fullmatch(path)]
        return found[0].get(method.lower()) if found else None

    def _resolved(self, described: Any) -> Any:
        if "$ref" not in described:
            return described
        _, _, component_type, name = described["$ref"].split("/")
        return self._components[component_type][name]

    def _new_validator(self, schema: bytes) -> Any:
        return Draft202012Validator({**msgspec.json.decode(schema), "components": self._components})


def _pattern(path: str) -> re.Pattern[str]:
    anything = ".+" if path.endswith("{model_id}") else "[^/]+"
    return re.compile(re.sub(r"\\{\w+\\}", anything, re.escape(path)))


def _event_data(body: bytes) -> Iterator[bytes]:
    values = (line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: "))
    return (value for value in values if value != b"[DONE]")


def _closed(schema: Any) -> Any:
    """A copy of the schema that forbids unnamed fields."""
    if isinstance(schema, dict):
        closed = {name: _closed(value) for name, value in schema.items()}
        is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
        return {"additionalProperties": False, **closed} if is_object else closed
    return [_closed(member) for member in schema] if isinstance(schema, list) else schema
