"""Each Chat Completions parameter is sent, kept or refused as docs/clients.md says."""

from typing import Any

import msgspec
import pytest
from openai.types.chat import completion_create_params

from commands.chat_body import CreateChatCompletion
from context.rendering import TRANSCRIPT_CHAT, TRANSCRIPT_RESPONSES, render_transcript
from context.transcripts.known_messages import KnownMessages
from infrastructure.http.body import validate_body
from infrastructure.http.errors import ApiError
from tests.commands.parameter_lists import APIS, fields, listed, value_at

TREATMENTS = {
    name: dict(zip(APIS, treatments, strict=True))
    for name, *treatments, _ in listed("Every field of `POST /v1/chat/completions`", 4)
}
NOT_IN_THE_PACKAGE = {"conversation", "top_k"}
RENDERERS = {"responses": TRANSCRIPT_RESPONSES, "chat": TRANSCRIPT_CHAT}

FUNCTION = {"name": "look", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
FORMAT = {"name": "n", "schema": {"type": "object"}}
CITY = {"city": "Oslo", "country": "NO", "region": "Oslo", "timezone": "Europe/Oslo"}
VALUES: dict[str, Any] = {
    "audio": {"voice": "echo", "format": "wav"},
    "frequency_penalty": -1.5,
    "function_call": {"name": "look"},
    "functions": [FUNCTION],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 40,
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "model": "m",
    "moderation": {"model": "m", "policy": {"input": {"mode": "score"}, "output": {"mode": "score"}}},
    "moderation.policy.input.mode": "block",
    "moderation.policy.output.mode": "block",
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "Hello"},
    "presence_penalty": 1,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": FORMAT},
    "safety_identifier": "s",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["\n"],
    "stream_options": {"include_obfuscation": False},
    "temperature": 1,
    "tool_choice": "required",
    "tools": [TOOL],
    "top_logprobs": 3,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {
        "search_context_size": "low",
        "user_location": {"type": "approximate", "approximate": CITY},
    },
    "top_k": 40,
}
"""Values of parameters, and of some inner fields."""

NEEDED: dict[str, dict[str, Any]] = {
    "function_call": {"functions": [FUNCTION]},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True},
}
IN_RESPONSES: dict[str, tuple[str, Any]] = {
    "logprobs": ("include", ["message.output_text.logprobs"]),
    "max_completion_tokens": ("max_output_tokens", 40),
    "max_tokens": ("max_output_tokens", 50),
    "messages": ("input", [{"type": "message", "role": "user", "content": "hi"}]),
    "reasoning_effort": ("reasoning.effort", "low"),
    "response_format": ("text.format", {"type": "json_schema", **FORMAT}),
    "tools": ("tools", [{"type": "function", **FUNCTION, "strict": False}]),
    "verbosity": ("text.verbosity", "low"),
}
"""Parameters whose name or shape differs in the Responses API, each with the name and the value in this API."""


def body_with(name: str) -> CreateChatCompletion:
    first, *path = name.split(".")
    value = VALUES[first]
    if path and name in VALUES:  # the mode of a moderation
        value = {"model": "m", "policy": {path[1]: {"mode": VALUES[name]}}}
    sent = {"messages": VALUES["messages"], **NEEDED.get(name, {}), first: value}
    return validate_body(CreateChatCompletion, msgspec.json.encode(sent))


def test_every_field_of_the_official_client_is_listed() -> None:
    types = (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    )
    assert {*TREATMENTS} == {name for each in types for name in fields(each)} | NOT_IN_THE_PACKAGE


@pytest.mark.parametrize("provider_api", APIS)
def test_each_parameter_is_sent_kept_or_refused_as_the_list_says(provider_api: str) -> None:
    renderer = RENDERERS[provider_api]
    treatments = {name: treatment[provider_api] for name, treatment in TREATMENTS.items()}
    assert {*treatments.values()} == {"used", "sent", "kept", "refused"}
    for name, treatment in treatments.items():
        if treatment == "used":
            continue
        body = body_with(name)
        if treatment == "refused":
            with pytest.raises(ApiError) as refused:
                body.check(renderer, KnownMessages())
            assert (refused.value.status, refused.value.code) == (400, "unsupported_parameter"), name
            assert refused.value.param in (name, name.split(".")[0], *NEEDED.get(name, ())), name
            continue
        body.check(renderer, KnownMessages())
        parameters = body.recorded_parameters()
        rendered = render_transcript(renderer, model="m", messages=body.messages, parameters=parameters)
        if treatment == "kept":
            assert name in parameters
            assert name not in rendered
            continue
        sent_name, value = name, value_at(VALUES, name)
        if provider_api == "responses":
            sent_name, value = IN_RESPONSES.get(name, (name, value))
        found = value_at(rendered, sent_name)
        assert {**found, **value} == found if isinstance(value, dict) else found == value, name
