"""Reads the messages that a client sends on a WebSocket."""

from typing import Any

from commands.response_body import MAX_REQUEST_BYTES, CreateResponse
from infrastructure.http.body import parse_json, validate
from infrastructure.http.errors import ApiError

_REFUSED = {
    "stream": "A WebSocket always streams: leave it out.",
    "stream_options": "A WebSocket always streams: leave it out.",
    "background": "Over a WebSocket there are no background replies.",
    "stream_id": "A connection has one stream: open another connection for a second stream.",
}
"""Parameters that are refused, with the reason or what to do instead."""


def parse_message(raw: bytes) -> dict[str, Any]:
    """The `response.create` in this message. Raises ApiError (400, 413)."""
    if len(raw) > MAX_REQUEST_BYTES:
        raise ApiError(413, f"The message is larger than {MAX_REQUEST_BYTES} bytes.", code="request_too_large")
    message = parse_json(raw)
    if not isinstance(message, dict):
        raise ApiError(400, "A message must be a JSON object.", code="invalid_value")
    kind = message.get("type")
    if kind is None:
        raise ApiError(
            400, "`type` is missing. Send `response.create`.", code="missing_required_parameter", param="type"
        )
    if kind == "response.steer":
        raise ApiError(400, "`response.steer` is not supported.", code="steering_not_supported", param="type")
    if kind != "response.create":
        raise ApiError(400, "Invalid `type`: only `response.create` is known.", code="invalid_value", param="type")
    return message


def create_parameters(message: dict[str, Any]) -> CreateResponse:
    """The parameters in the message. Raises ApiError (400)."""
    for name, advice in _REFUSED.items():
        if message.get(name) is not None:
            raise _unsupported_parameter(name, f"`{name}` is not supported on a WebSocket. {advice}")
    if message.get("generate") not in (None, True):
        raise _unsupported_parameter(
            "generate",
            "`generate` can only be `true` on a WebSocket, because a reply is always generated. Leave it out.",
        )
    return validate(
        CreateResponse, {name: value for name, value in message.items() if name not in ("type", "generate")}
    )


def _unsupported_parameter(name: str, message: str) -> ApiError:
    return ApiError(400, message, code="unsupported_parameter", param=name)
