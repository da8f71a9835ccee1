"""The error for a request that the application does not see."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from infrastructure.ids import mint


class Refused(Exception):
    """Why a request is refused. The connection is closed after the answer."""

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def refusal_headers(refused: Refused, body: bytes) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": mint("req"),
        "x-content-type-options": "nosniff",
        "x-should-retry": "true" if refused.status == 408 else "false",
        "connection": "close",
        **refused.headers,
    }


def refusal_body(refused: Refused) -> bytes:
    """In the shape of all other errors."""
    error = {"message": refused.message, "type": "invalid_request_error", "param": None, "code": refused.code}
    return msgspec.json.encode({"error": error})


def refusal_answer(refused: Refused) -> bytes:
    """The whole answer, as HTTP/1.1."""
    body = refusal_body(refused)
    lines = [f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in refusal_headers(refused, body).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
