"""The Response object. The official SDK can parse it."""

from typing import Any

import msgspec
import pytest
from openai.types.responses import Response

from context.rendering import CHAT, RESPONSES, TRANSCRIPT_RESPONSES
from domain.events import Usage
from domain.items import as_output
from replies.response_object import response_object

RESPONSE = "resp_" + "0" * 32
CONVERSATION = "conv_" + "0" * 32
MESSAGE = as_output("msg_" + "0" * 32, b'{"role":"assistant","content":"Four."}')
USAGE = Usage(input_tokens=30, output_tokens=12, cached_tokens=5, reasoning_tokens=3, cache_write_tokens=7)

NOT_IN_SDK = {"store", "context_management", "cost_usd", "presence_penalty", "frequency_penalty"}
"""`cost_usd` is our own field. The others are official parameters of requests."""

LEFT_OUT = {"image", "input_transformations", "prompt_cache_diagnostics", "prompt_cache_options", "tool_usage"}
"""Fields that the request does not set, or that no provider reports."""

DEFAULTS: dict[str, Any] = {
    "access_programs": None,
    "background": False,
    "context_management": None,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "moderation": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "auto",
    "user": None,
}


def body(**changes: Any) -> dict[str, Any]:
    encoded = response_object(
        **{
            "response_id": RESPONSE,
            "conversation_id": CONVERSATION,
            "created_at": 1_700_000_000.25,
            "status": "completed",
            "model": "smol",
            "output": [MESSAGE],
            "parameters": {},
            "renderer": CHAT,
            "usage": USAGE,
            "error": None,
            "finish_reason": "stop",
            "completed_at": 1_700_000_003.5,
            **changes,
        }
    )
    decoded: dict[str, Any] = msgspec.json.decode(encoded)
    return decoded


def rendered(**changes: Any) -> Response:
    return Response.model_validate(body(**changes), strict=True)


def test_a_response_has_the_fields_of_the_sdks_type() -> None:
    assert set(body()) == set(Response.model_fields) - LEFT_OUT | NOT_IN_SDK


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
    assert usage.input_tokens_details.cache_write_tokens == 7
    assert usage.output_tokens_details.reasoning_tokens == 3


def test_a_response_repeats_the_parameters_of_the_request() -> None:
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


def test_parameters_that_are_absent_or_null_have_defaults() -> None:
    response = body(parameters={"temperature": None})
    assert {name: response[name] for name in DEFAULTS} == DEFAULTS


def test_fields_that_a_parameter_does_not_set_have_their_defaults() -> None:
    response = body(
        parameters={
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}],
            "prompt_cache_options": {"ttl": "12h"},
        }
    )
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {
        "format": {
            "type": "json_schema",
            "name": "n",
            "schema": {"type": "object"},
            "description": None,
            "strict": False,
        },
        "verbosity": "medium",
    }
    assert response["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": False},
        {"type": "custom", "name": "c"},
    ]
    assert response["prompt_cache_options"] == {"mode": "implicit", "ttl": "12h"}


def test_a_function_is_strict_by_default_in_the_responses_api_only() -> None:
    for strict, renderer, effective in (
        (None, CHAT, False),
        (None, None, False),
        (None, RESPONSES, True),
        (True, CHAT, True),
        (False, RESPONSES, False),
        (None, TRANSCRIPT_RESPONSES, False),
    ):
        [tool] = body(parameters={"tools": [{"type": "function", "name": "f", "strict": strict}]}, renderer=renderer)[
            "tools"
        ]
        assert tool["strict"] is effective


def test_a_reported_service_tier_is_shown() -> None:
    for requested, reported, finish_reason, effective in (
        (None, None, None, "auto"),
        (None, None, "stop", "default"),
        (None, None, "length", "default"),
        ("auto", "flex", "stop", "flex"),
        ("flex", "default", "stop", "default"),
        ("flex", None, "stop", "flex"),
        ("flex", None, None, "flex"),
    ):
        parameters = {"service_tier": requested}
        response = body(parameters=parameters, service_tier=reported, finish_reason=finish_reason)
        assert response["service_tier"] == effective


def test_only_a_completed_response_has_a_time_of_completion() -> None:
    for status in ("queued", "in_progress", "failed", "cancelled", "incomplete"):
        assert body(status=status)["completed_at"] is None


def test_a_running_response_has_neither_output_nor_usage() -> None:
    response = rendered(status="in_progress", output=[], usage=None, completed_at=None)

    assert (response.output, response.usage, response.completed_at) == ([], None, None)


def test_only_an_incomplete_response_has_a_reason() -> None:
    for finish_reason, reason in (
        ("length", "max_output_tokens"),
        ("content_filter", "content_filter"),
        (None, "interrupted"),
    ):
        assert body(status="incomplete", finish_reason=finish_reason)["incomplete_details"] == {"reason": reason}
    for status in ("completed", "cancelled", "failed", "in_progress", "queued"):
        assert body(status=status)["incomplete_details"] is None


@pytest.mark.parametrize(
    ("code", "sdk_code", "error_type"),
    [("rate_limit_exceeded", "rate_limit_exceeded", None), ("model_unavailable", "server_error", "model_unavailable")],
)
def test_a_failure_code_unknown_to_the_sdk_becomes_server_error(
    code: str, sdk_code: str, error_type: str | None
) -> None:
    response = rendered(status="failed", output=[], usage=None, error={"code": code, "message": "It failed."})

    assert response.error is not None
    assert (response.error.code, response.error.type, response.error.message) == (sdk_code, error_type, "It failed.")
