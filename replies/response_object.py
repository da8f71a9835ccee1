"""Makes the Response object of the OpenAI API. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from domain.events import Usage
from replies.effective_parameters import effective_parameters, effective_tier
from replies.response_shape import (
    ConversationReference,
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseError,
    ResponseObject,
    Status,
    UsageObject,
)

INCOMPLETE_REASONS: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""With any other finish reason, the answer is complete."""

INTERRUPTED: Final = "interrupted"

_ERROR_CODES: Final = frozenset({"server_error", "rate_limit_exceeded"})
"""Any other code becomes `server_error`."""


def response_object(
    *,
    response_id: str,
    conversation_id: str | None,
    created_at: float,
    status: Status,
    model: str,
    output: Sequence[bytes],
    parameters: Mapping[str, Any],
    renderer: int | None,
    usage: Usage | None,
    error: Mapping[str, Any] | None,
    finish_reason: str | None = None,
    service_tier: str | None = None,
    completed_at: float | None = None,
    cost: int | None = None,
    shortened_from: int | None = None,
) -> bytes:
    """The JSON text of a Response. Times are in seconds since 1970.

    renderer        the version of the renderer that made the request to the provider; None: unknown
    cost            in billionths of a US dollar
    shortened_from  the original size of the parameters in bytes, if the view has shortened them
    """
    is_completed = status == "completed"
    response = ResponseObject(
        id=response_id,
        created_at=int(created_at),
        completed_at=int(completed_at) if is_completed and completed_at is not None else None,
        status=status,
        model=model,
        conversation=None if conversation_id is None else ConversationReference(conversation_id),
        previous_response_id=parameters.get("previous_response_id"),
        error=None if error is None else _error(error),
        incomplete_details=_incomplete_details(finish_reason) if status == "incomplete" else None,
        usage=None if usage is None else usage_object(usage),
        cost_usd=None if cost is None else cost / 1_000_000_000,
        service_tier=effective_tier(parameters, service_tier, finished=finish_reason is not None),
        shortened_from=UNSET if shortened_from is None else shortened_from,
        output=[Raw(item) for item in output],
        **effective_parameters(parameters, renderer),
    )
    return msgspec.json.encode(response)


def usage_object(usage: Usage) -> UsageObject:
    return UsageObject(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=usage.cached_tokens, cache_write_tokens=usage.cache_write_tokens
        ),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.input_tokens + usage.output_tokens,
    )


def _incomplete_details(finish_reason: str | None) -> IncompleteDetails:
    return IncompleteDetails(INCOMPLETE_REASONS.get(finish_reason or "", INTERRUPTED))


def _error(error: Mapping[str, Any]) -> ResponseError:
    code = str(error["code"])
    in_sdk = code in _ERROR_CODES
    return ResponseError(
        code=code if in_sdk else "server_error", message=error["message"], type=None if in_sdk else code
    )
