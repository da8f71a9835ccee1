"""The Response object of the OpenAI API, as the write API and the read API answer with it. Pure.

Shape: `openai/types/responses/response.py` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from domain.events import Usage
from infrastructure.http.shapes import json_array

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]

INCOMPLETE_REASONS: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""A provider's finish reason -> the reason in `incomplete_details`. With any other finish reason the answer is complete."""

_ECHOED: Final[Mapping[str, Any]] = {
    "background": False,
    "context_management": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": None,
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": None,
    "top_p": None,
    "truncation": None,
}
"""The request parameters that a Response repeats, with their defaults."""

_ERROR_CODES: Final = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})
"""The error codes that a failure can have and that the SDK accepts."""


def response_object(
    *,
    response_id: str,
    conversation_id: str | None,
    created_at: float,
    status: Status,
    model: str,
    output: Sequence[bytes],
    parameters: Mapping[str, Any],
    usage: Usage | None,
    error: Mapping[str, Any] | None,
    incomplete_reason: str | None,
    completed_at: float | None = None,
    cost: int | None = None,
    shortened_from: int | None = None,
) -> bytes:
    """The JSON text of a Response. Times in seconds since 1970; `output`: the JSON texts of its items, inserted unchanged.

    `parameters`: those of the request. `error`: `{code, message}`; a code that the SDK does not know becomes `server_error`,
    with ours in `type`. `cost`: billionths of a US dollar. `shortened_from`: the original size of the parameters in bytes, if they
    were too large for the view and are shortened.
    """
    body = {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "completed_at": None if completed_at is None else int(completed_at),
        "status": status,
        "model": model,
        "conversation": None if conversation_id is None else {"id": conversation_id},
        "previous_response_id": parameters.get("previous_response_id"),
        "error": None if error is None else _error(error),
        "incomplete_details": None if incomplete_reason is None else {"reason": incomplete_reason},
        "usage": None if usage is None else usage_object(usage),
        "cost_usd": None if cost is None else cost / 1_000_000_000,
        **{name: _parameter(parameters, name, default) for name, default in _ECHOED.items()},
    }
    if shortened_from is not None:
        body["shortened_from"] = shortened_from
    return msgspec.json.encode(body)[:-1] + b',"output":' + json_array(output) + b"}"


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` of a Response."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _parameter(parameters: Mapping[str, Any], name: str, default: Any) -> Any:
    value = parameters.get(name)
    return default if value is None else value


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    code = str(error["code"])
    in_sdk = code in _ERROR_CODES
    return {"code": code if in_sdk else "server_error", "message": error["message"], "type": None if in_sdk else code}
