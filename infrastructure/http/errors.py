"""Makes the errors of the apps. One table gives each exception its status code.

No error contains a traceback or content.
"""

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any, Self

import structlog
from eventsourcing.persistence import IntegrityError, PersistenceError
from msgspec import UNSET, Struct, UnsetType, json, to_builtins
from psycopg import Error as PostgresError
from psycopg.errors import DiskFull, ForeignKeyViolation
from psycopg_pool import PoolTimeout
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from domain.errors import (
    Conflict,
    ContentGone,
    ContentsTooLarge,
    ContextTooLong,
    ConversationLocked,
    HistoryLost,
    ModelFailed,
    NotAllowed,
    NotFound,
    Refused,
    ReplyLost,
    SharedWithOwner,
    SummaryHasChanged,
    TooManyQueued,
)
from infrastructure.access.refusals import CannotCheckCredential, InvalidCredential, InvalidSubject, NotPermitted
from infrastructure.disk_space import NoSpace
from infrastructure.event_log.append_request import KeyReused, LogBusy, LogUnavailable, VersionMismatch
from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.limits.refusals import OverLimit

log = structlog.get_logger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "conflict_error",
    412: "precondition_failed",
    413: "invalid_request_error",
    415: "invalid_request_error",
    416: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "model_error",
    503: "service_unavailable",
    504: "model_error",
}
_RETRY_MAY_HELP = {408, 429, 500, 503}


class ErrorDetail(Struct, frozen=True):
    """What is wrong. `param`: the wrong field, such as `items[3].role`. `code`: for programs, such as `conversation_not_found`.

    `response_id`: set if the request failed, but its response is, or may be, on record.
    """

    message: str
    type: str
    param: str | None
    code: str | None
    response_id: str | UnsetType = UNSET


class ErrorResponse(Struct, frozen=True):
    """The body of an error."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An error as the client gets it. `param`: the wrong field, such as `items[3].role`.

    `error_type`: OpenAI's type for this error, if it differs from the type of the status.
    """

    headers: dict[str, str]

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool | None = None,
        error_type: str | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry = status in _RETRY_MAY_HELP if retry is None else retry
        self.error_type = error_type or _TYPES.get(status, "invalid_request_error")
        self.response_id: str | UnsetType = UNSET

    def on_record_as(self, response_id: str, *, is_certain: bool = True) -> Self:
        """Adds the response and returns the error. `is_certain`: whether the response surely is on record."""
        self.response_id = response_id
        is_or_may_be = "is" if is_certain else "may be"
        self.message = f"{self.message} The response {is_or_may_be} on record as {response_id}."
        return self

    def body(self) -> ErrorResponse:
        return ErrorResponse(ErrorDetail(self.message, self.error_type, self.param, self.code, self.response_id))

    def socket_event(self) -> bytes:
        """As a message of a WebSocket. Open Responses requires a `code`. The SDKs read `headers`."""
        error = to_builtins(self.body().error)
        headers = {"headers": self.headers} if self.headers else {}
        return json.encode(
            {"type": "error", "status": self.status, "error": {**error, "code": self.code or error["type"], **headers}}
        )

    def response(self, body: Struct | None = None) -> Response:
        """As an answer. `body` replaces `self.body()`, and must have the field `error`."""
        headers = {**self.headers, "x-should-retry": "true" if self.retry else "false"}
        # Only if a retry can help, because clients repeat a request whose answer has Retry-After.
        if self.status == 503 and self.retry:
            headers.setdefault("retry-after", "1")
        return Response(json.encode(body or self.body()), self.status, headers, "application/json")


def as_api_error(error: Exception) -> ApiError:  # noqa: C901, PLR0911, PLR0912 - it is a table
    """The error that the client receives for this exception."""
    match error:
        case ApiError():
            return error
        case InvalidCredential():
            return ApiError(401, str(error), code=error.code, headers={"www-authenticate": _challenge(error)})
        case NotPermitted():
            return ApiError(403, str(error), code=error.code, param=error.param)
        case InvalidSubject():
            return ApiError(400, str(error), code="invalid_header", param="X-Subject")
        case CannotCheckCredential():
            return ApiError(503, str(error), code="credential_not_checked")
        case NotFound():
            return ApiError(404, str(error), code=error.code)
        case HistoryLost() | ReplyLost():
            return ApiError(503, str(error), code=error.code)
        case ConversationLocked() | SummaryHasChanged() | TooManyQueued():
            return ApiError(409, str(error), code=error.code, retry=True)
        case Conflict():
            return ApiError(409, str(error), code=error.code)
        case NotAllowed():
            return ApiError(403, str(error), code=error.code)
        case SharedWithOwner():
            return ApiError(403, str(error), code=error.code, param="with")
        case ContextTooLong():
            return ApiError(400, str(error), code=error.code, param="input")
        case ContentsTooLarge():
            return ApiError(413, str(error), code=error.code, param="input")
        case ContentGone():
            return ApiError(409, str(error), code=error.code)
        case IntegrityError(__cause__=ForeignKeyViolation()) | ForeignKeyViolation():
            # Only `content_refs` has a foreign key that a request can break.
            return ApiError(409, "A file was deleted meanwhile.", code="file_not_found")
        case Refused():
            return ApiError(400, str(error), code=error.code)
        case VersionMismatch():
            return ApiError(412, str(error), code="version_mismatch", headers={"etag": f'"{error.current}"'})
        case KeyReused():
            return ApiError(422, str(error), code="idempotency_key_reused")
        case LogBusy():
            return ApiError(503, str(error), code="event_store_busy")
        case OverLimit():
            return _over_limit(error)
        case LogUnavailable(outcome_unknown=True):
            message = "The event store has not confirmed it. Outcome unknown: GET the conversation before retrying."
            return ApiError(503, message, code="event_store_timeout", retry=False)
        case NoSpace() | DiskFull():
            return ApiError(503, "The store has no space for it.", code="no_space")
        case LogUnavailable() | PersistenceError() | PostgresError() | PoolTimeout():
            return ApiError(503, "The event store is unavailable.", code="event_store_unavailable")
        case UnreadableEvent():
            message = "The conversation contains an event that this version of the store cannot read."
            return ApiError(503, message, code="conversation_unreadable", retry=False)
        case PyMongoError():
            return ApiError(503, "The views are unavailable.", code="read_models_unavailable")
        case RedisError():
            return ApiError(503, "The snapshots are unavailable.", code="snapshots_unavailable")
        case ModelFailed(code="model_not_found"):
            return ApiError(400, error.message, code=error.code, param="model")
        case ModelFailed(code="context_length_exceeded"):
            return ApiError(400, error.message, code=error.code, param="input")
        case ModelFailed():
            headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
            retry = False if error.refused else None
            return ApiError(
                504 if error.timed_out else 502, error.message, code=error.code, headers=headers, retry=retry
            )
        case HTTPException(status_code=404):
            return ApiError(404, "Nothing is served at this path.", code="unknown_url")
        case HTTPException(status_code=405):
            return ApiError(
                405, "The path does not allow this method.", code="method_not_allowed", headers=error.headers
            )
        case HTTPException(status_code=413):
            return ApiError(413, "The body is too large.", code="request_too_large")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case _:
            return ApiError(
                500,
                "Internal error. The log lines with this answer's `x-request-id` describe it.",
                code="internal_error",
            )


def _over_limit(refusal: OverLimit) -> ApiError:
    """OpenAI's types are `requests`, `tokens` and `insufficient_quota`."""
    headers = {"retry-after": str(max(1, ceil(refusal.retry_after)))}
    if refusal.is_quota:
        code = "insufficient_quota"
        return ApiError(429, str(refusal), code=code, error_type=code, headers=headers, retry=False)
    error_type = "tokens" if refusal.name == "tokens" else "requests"
    return ApiError(429, str(refusal), code="rate_limit_exceeded", error_type=error_type, headers=headers)


def _challenge(error: InvalidCredential) -> str:
    """The value of `WWW-Authenticate` (RFC 6750, 3)."""
    return "Bearer" if error.code == "missing_credential" else 'Bearer error="invalid_token"'


def invalid(error: ValidationError, sent: Any, other_names: Mapping[str, str] = MappingProxyType({})) -> ApiError:
    """A 400 for one of pydantic's errors. It never contains the value that was sent.

    `other_names`: parameters of other APIs, and what to send here.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first_error = next((named for named in errors if named["loc"] and named["loc"][0] in other_names), errors[0])
    path = _path_of(first_error, sent)
    # A value that fits no type of a union has an error for each type. The deepest error belongs to the type that
    # was meant.
    for other_error in errors:
        if len(other_path := _path_of(other_error, sent)) > len(path) and other_path[: len(path)] == path:
            first_error, path = other_error, other_path
    if path[:1] == ["metadata"]:
        path = path[:1]  # the keys of metadata are content
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path).lstrip(".")
    if first_error["type"] == "extra_forbidden":
        hint = f" Use {other_names[param]}." if param in other_names else ""
        return ApiError(400, f"Unknown parameter: `{param}`.{hint}", code="unknown_parameter", param=param)
    problem = str(first_error["msg"]).removeprefix("Value error, ")
    message = f"Invalid `{param or 'body'}`: {problem}.".replace("..", ".")
    return ApiError(400, message, code="invalid_value", param=param or None)


def _path_of(error: ErrorDetails, sent: Any) -> list[int | str]:
    """Pydantic's path also names the types of a union that it tried."""
    path: list[int | str] = []
    for step in error["loc"]:
        in_list = isinstance(sent, list) and isinstance(step, int) and step < len(sent)
        if in_list or (isinstance(sent, dict) and step in sent):
            sent = sent[step]
        elif error["type"] != "missing" or step != error["loc"][-1]:
            continue
        path.append(step)
    return path


def reported(error: Exception) -> ApiError:
    """The error that the client receives. Logs each 5xx that was not raised as an ApiError."""
    api_error = as_api_error(error)
    if api_error.status >= 500 and not isinstance(error, ApiError):
        log.error("request_failed", error_type=type(error).__name__, exc_info=api_error.status == 500)
    return api_error


async def answer_error(_: HTTPConnection, error: Exception) -> Response:
    return reported(error).response()
