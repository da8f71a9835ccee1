"""The Response that both APIs answer with is valid for the official SDK's type, without unknown fields except three."""

from typing import Any

import msgspec
import pytest
from openai.types.responses import Response

from domain.events import Usage
from domain.items import as_output
from replies.response_object import INCOMPLETE_REASONS, response_object

RESPONSE = "resp_" + "0" * 32
CONVERSATION = "conv_" + "0" * 32
MESSAGE = as_output("msg_" + "0" * 32, b'{"role":"assistant","content":"Four."}')
USAGE = Usage(input_tokens=30, output_tokens=12, cached_tokens=5, reasoning_tokens=3)


def rendered(**changes: Any) -> Response:
    body = response_object(
        **{
            "response_id": RESPONSE,
            "conversation_id": CONVERSATION,
            "created_at": 1_700_000_000.25,
            "status": "completed",
            "model": "smol",
            "output": [MESSAGE],
            "parameters": {},
            "usage": USAGE,
            "error": None,
            "incomplete_reason": None,
            "completed_at": 1_700_000_003.5,
            **changes,
        }
    )
    # `store` and `context_management` are in the API's answers, and not among the SDK's fields; the cost is our own.
    assert set(msgspec.json.decode(body)) - set(Response.model_fields) == {"store", "context_management", "cost_usd"}
    return Response.model_validate_json(body)


def test_a_completed_response_parses_as_the_sdks_own_type() -> None:
    response = rendered()

    assert (response.id, response.object, response.status, response.model) == (
        RESPONSE,
        "response",
        "completed",
        "smol",
    )
    assert (response.created_at, response.completed_at) == (1_700_000_000, 1_700_000_003)
    assert response.conversation is not None
    assert response.conversation.id == CONVERSATION
    assert response.output_text == "Four."
    assert response.error is None
    assert response.incomplete_details is None


def test_usage_has_the_sdks_fields() -> None:
    usage = rendered().usage

    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (30, 12, 42)
    assert usage.input_tokens_details.cached_tokens == 5
    assert usage.output_tokens_details.reasoning_tokens == 3


def test_the_requests_own_parameters_are_repeated() -> None:
    parameters = {
        "instructions": "Be brief.",
        "temperature": 0.2,
        "top_p": 0.9,
        "max_output_tokens": 40,
        "metadata": {"a": "b"},
        "truncation": "auto",
        "tool_choice": "none",
        "parallel_tool_calls": False,
    }

    response = rendered(parameters=parameters)

    assert {name: getattr(response, name) for name in parameters} == parameters


def test_absent_parameters_have_the_apis_defaults() -> None:
    response = rendered(parameters={"temperature": None})

    assert (response.tool_choice, response.tools, response.parallel_tool_calls) == ("auto", [], True)
    assert (response.temperature, response.top_p, response.instructions, response.metadata) == (None, None, None, {})
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "text"


def test_a_running_response_has_neither_output_nor_usage() -> None:
    response = rendered(status="in_progress", output=[], usage=None, completed_at=None)

    assert (response.output, response.usage, response.completed_at) == ([], None, None)


def test_a_response_that_ran_out_of_tokens_names_the_reason() -> None:
    response = rendered(status="incomplete", incomplete_reason=INCOMPLETE_REASONS["length"])

    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("code", "sdk_code", "error_type"),
    [("rate_limit_exceeded", "rate_limit_exceeded", None), ("model_unavailable", "server_error", "model_unavailable")],
)
def test_a_failure_code_that_the_sdk_does_not_know_becomes_server_error_with_our_code_as_type(
    code: str, sdk_code: str, error_type: str | None
) -> None:
    response = rendered(status="failed", output=[], usage=None, error={"code": code, "message": "It failed."})

    assert response.error is not None
    assert (response.error.code, response.error.type, response.error.message) == (sdk_code, error_type, "It failed.")
