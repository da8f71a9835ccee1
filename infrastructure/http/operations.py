"""What the OpenAPI document says about one route. Nothing here validates a request or makes an answer."""

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from infrastructure.http.errors import ErrorResponse
from infrastructure.http.path_ids import id_pattern

JSON: Final = "application/json"
JSON_LINES: Final = "application/x-ndjson"
OCTETS: Final = "application/octet-stream"
EVENT_STREAM: Final = "text/event-stream"
_SCHEMA: Final = "#/components/schemas/"

Schema = dict[str, Any]

ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("BadRequest", "The request is malformed, or a rule refuses it. `param` names the wrong field."),
    401: ("NoValidCredential", "The request has no credential, or one that is not valid."),
    403: (
        "NotAllowed",
        "The credential's scopes, the caller's role in the conversation, the `Host` or the `Origin` do not allow it.",
    ),
    404: ("NotFound", "What the request names does not exist, was deleted, or is not visible to the caller."),
    409: ("Conflict", "The state of the conversation or of the response does not allow the request."),
    412: (
        "PreconditionFailed",
        "The conversation does not have a version that `If-Match` names. The `ETag` has the current one.",
    ),
    413: ("ContentTooLarge", "The body, or an item, is too large."),
    415: (
        "UnsupportedMediaType",
        "The `Content-Type` of the body is not that of JSON, or of a form where one is sent.",
    ),
    416: ("RangeNotSatisfiable", "The file has no byte of the `Range`."),
    422: ("KeyReused", "The `Idempotency-Key` was used for another request."),
    429: ("TooManyRequests", "A limit is reached. `Retry-After` says when to try again."),
    500: ("ServerError", "An error of the store. The log lines with the answer's `x-request-id` describe it."),
    502: ("ModelFailed", "The provider of the model failed."),
    503: ("Unavailable", "A database is unavailable, the views are behind, or the store is too busy."),
    504: ("ModelTimedOut", "The provider of the model did not answer in time."),
}
"""By status: the name of the answer, and its description."""

HEADERS: Final[Mapping[str, str]] = {
    "X-Request-ID": "The request's id, which is also in the logs. A client may send its own.",
    "X-Position": "The position of the log that the answer shows.",
    "ETag": "The conversation's version, as an entity tag.",
    "Idempotent-Replayed": "`true` if the request is a repeat and this is the answer to the first request with its `Idempotency-Key`.",
    "X-Conversation-Id": "The conversation in which the request and its answer are stored.",
    "X-Response-Id": "The id that the answer has as a Response.",
    "X-Context-Left-Out": "How many items of the conversation the model was not shown, because they did not fit in the budget. Absent if there are none.",
    "Accept-Ranges": "`bytes`: the request may have a `Range`.",
    "Content-Disposition": "The file's name.",
    "Content-Range": "Which bytes of the file the answer has.",
    "X-Consistency": "`unverified`: Postgres is unavailable, so newer events may be missing. `parked`: a conversation may be missing or old.",
    "X-Should-Retry": "Whether a retry can help: `true` or `false`.",
    "WWW-Authenticate": "How to authenticate: with a bearer token. `error` says that the one that was sent is not valid.",
    "Retry-After": "Seconds to wait before a retry.",
    "RateLimit-Policy": "The limits that the request counts against, where there are any. As in draft-ietf-httpapi-ratelimit-headers.",
    "RateLimit": "What is left of the limits in `RateLimit-Policy`.",
    **{
        f"X-RateLimit-{what}-{of}": f"As in OpenAI's API: {meaning} {of.lower()} a minute."
        for of in ("Requests", "Tokens")
        for what, meaning in (
            ("Limit", "the limit of"),
            ("Remaining", "what is left of the"),
            ("Reset", "when there will be more"),
        )
    },
}
"""A header of an answer means the same on every route."""

LIMIT_HEADERS: Final = tuple(name for name in HEADERS if "RateLimit" in name)

CREDENTIAL: Final = (
    "A token of the user service, or an API key. A store with AUTH_MODE=none needs neither. With the scope `act_as`, the header `X-Subject` names "
    "the user that the request is made for."
)

_TAG: Final = r'(W/)?"[^"]*"'
_TAGS: Final = {"type": "string", "pattern": rf"^(\*|{_TAG}(, *{_TAG})*)$"}
_POSITION: Final = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_REQUEST_HEADERS: Final[Mapping[str, Schema]] = {
    "If-Match": _TAGS,
    "If-None-Match": _TAGS,
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255},
    "X-Min-Position": _POSITION,
    "Last-Event-ID": _POSITION,
    "Range": {"type": "string"},
    "If-Range": {"type": "string"},
    "X-Conversation-Id": {"type": "string", "minLength": 1, "maxLength": 256},
}
"""The schemas of the headers that requests may have."""

_ERROR_HEADERS: Final[Mapping[int, tuple[str, ...]]] = {
    400: ("Idempotent-Replayed",),
    401: ("WWW-Authenticate",),
    412: ("ETag",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    502: ("Retry-After", "Idempotent-Replayed"),
    503: ("Retry-After",),
    504: ("Retry-After", "Idempotent-Replayed"),
}


class Operation(Struct, frozen=True, kw_only=True):
    """One route in the document. `answer`, `events`: the types of a JSON answer and of a stream's events."""

    answer: type | None = None
    events: type | None = None
    has_ranges: bool = False
    """The answer is a file, or a part of one."""
    answer_headers: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    body_media: str = JSON
    """For JSON lines, `body` is the type of a line."""
    error_bodies: Mapping[int, type] = MappingProxyType({})
    """By status: the type of a body that may replace an ErrorResponse."""
    may_be_unmodified: bool = False
    """Whether `If-None-Match` can lead to a 304."""

    @property
    def models(self) -> set[type]:
        return {
            model for model in (self.answer, self.events, self.body, *self.error_bodies.values()) if model is not None
        }

    def described(self) -> Schema:
        operation: Schema = {"parameters": list(self.parameters), "responses": self._responses()}
        if self.body is not None:
            content = {"schema": reference(self.body)}
            if self.body_media == JSON_LINES:  # as OpenAPI 3.2 (4.14.3) describes them
                content = {"schema": {"type": "string", "format": "binary"}, "itemSchema": reference(self.body)}
            operation["requestBody"] = {"required": self.body_required, "content": {self.body_media: content}}
        return operation

    def _responses(self) -> Schema:
        content: Schema = {}
        if self.answer is not None:
            content[JSON] = {"schema": reference(self.answer)}
        if self.events is not None:
            content[EVENT_STREAM] = {"itemSchema": _server_sent_event(self.events)}
        headers = {name: _header_reference(name) for name in ("X-Request-ID", *LIMIT_HEADERS, *self.answer_headers)}
        responses: Schema = {
            "200": {"description": "Success", "headers": headers, "content": content},
            **{str(status): {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in self.errors},
            **{str(status): _error(status, body) for status, body in self.error_bodies.items()},
        }
        if self.has_ranges:
            content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
            responses["206"] = {**responses["200"], "description": "The bytes of the `Range`."}
        if self.may_be_unmodified:
            headers = {name: _header_reference(name) for name in ("X-Request-ID", *LIMIT_HEADERS, "ETag")}
            responses["304"] = {"description": "The client has the answer already.", "headers": headers, "content": {}}
        return responses


def reference(model: type) -> Schema:
    return {"$ref": _SCHEMA + model.__name__}


def _header_reference(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def _server_sent_event(data: type) -> Schema:
    """A server-sent event, as in OpenAPI 3.2 (4.14.3)."""
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "id": {"type": "string"},
            "data": {"type": "string", "contentMediaType": JSON, "contentSchema": reference(data)},
        },
    }


def path_parameters(names: Iterable[str]) -> Iterable[Schema]:
    return ({"name": name, "in": "path", "required": True, "schema": _path_schema(id_pattern(name))} for name in names)


def _path_schema(pattern: str | None) -> Schema:
    return {"type": "string", "minLength": 1} if pattern is None else {"type": "string", "pattern": pattern}


def query_parameters(query: type[BaseModel]) -> Iterable[Schema]:
    """A parameter may be absent, but not null."""
    schema = query.model_json_schema()
    for name, field in schema.get("properties", {}).items():
        described = _without_null(field)
        description = described.pop("description", None)
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": described}
        yield parameter if description is None else {**parameter, "description": description}


def header_parameters(headers: Mapping[str, str]) -> Iterable[Schema]:
    return (
        {"name": name, "in": "header", "schema": {**_REQUEST_HEADERS[name]}, "description": description}
        for name, description in headers.items()
    )


def _without_null(field: Schema) -> Schema:
    """A client leaves a parameter out instead of sending null."""
    described = {name: value for name, value in field.items() if value is not None and name != "title"}
    options = [option for option in described.pop("anyOf", ()) if option != {"type": "null"}]
    return described | options[0] if options else described


def components(operations: Iterable[Operation]) -> Schema:
    """The components that operations refer to."""
    operations = list(operations)
    statuses = {status for operation in operations for status in operation.errors}
    bodies = {operation.body for operation in operations if operation.body is not None}
    answers = {model for operation in operations for model in operation.models - bodies} | {ErrorResponse}
    return {
        "schemas": {**_schemas(bodies, answers)},
        "responses": {ERRORS[status][0]: _error(status) for status in sorted(statuses)},
        "headers": {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in HEADERS},
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": CREDENTIAL}},
    }


def _schemas(bodies: Iterable[type[BaseModel]], answers: Iterable[type]) -> Schema:
    models = [(model, "validation") for model in bodies]
    models += [(model, "serialization") for model in answers if issubclass(model, BaseModel)]
    _, of_models = models_json_schema(models, ref_template=_SCHEMA + "{model}")  # type: ignore[arg-type]  # a mode is a str here
    structs = [model for model in answers if not issubclass(model, BaseModel)]
    _, of_structs = msgspec.json.schema_components(structs, ref_template=_SCHEMA + "{name}")
    schemas: Schema = {**of_models.get("$defs", {}), **of_structs}
    for schema in schemas.values():
        if "description" in schema:  # the docstring of a type
            schema["description"] = inspect.cleandoc(schema["description"])
    return {name: _plain(schemas[name]) for name in sorted(schemas)}


def _plain(schema: Any) -> Any:
    """The schema without titles and defaults. Code generators make a field with a default a required field.

    A property that is named `title` or `default` stays.
    """
    match schema:
        case {"enum": [str(constant)]} if len(schema) == 1:
            return {"type": "string", "const": constant}
        case dict():
            return {
                name: _plain(value)
                for name, value in schema.items()
                if name not in ("title", "default") or isinstance(value, dict)
            }
        case list():
            return [_plain(member) for member in schema]
        case _:
            return schema


def _error(status: int, body: type | None = None) -> Schema:
    """The description of an error. `body`: a type that may replace ErrorResponse."""
    names = ("X-Request-ID", "X-Should-Retry", *LIMIT_HEADERS, *_ERROR_HEADERS.get(status, ()))
    error = reference(ErrorResponse)
    schema = error if body is None else {"anyOf": [reference(body), error]}
    return {
        "description": ERRORS[status][1],
        "headers": {name: _header_reference(name) for name in names},
        "content": {JSON: {"schema": schema}},
    }
