"""The body of a Chat Completions request: what is refused, and how the parameters are recorded."""

from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from commands.chat_body import MAX_CHAT_BYTES, MAX_MESSAGES, CreateChatCompletion, is_stored
from commands.chat_message_checks import MAX_ANSWER_BYTES
from context.rendering import CHAT, RESPONSES
from context.transcripts.known_messages import KnownMessages
from infrastructure.http.body import MAX_READ_BYTES, validate_body
from infrastructure.http.errors import ApiError

USER: dict[str, Any] = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
OUTPUT = {"role": "tool", "tool_call_id": "call_1", "content": "blue"}
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
CUSTOM = {
    "type": "custom",
    "custom": {"name": "write", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}},
}


def body_of(*messages: Any, renderer: int = CHAT, **parameters: Any) -> CreateChatCompletion:
    sent = {"messages": [*messages] or [USER], **parameters}
    body = validate_body(CreateChatCompletion, msgspec.json.encode(sent))
    body.check(renderer, KnownMessages())
    return body


def refusal(*messages: Any, renderer: int = CHAT, **parameters: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        body_of(*messages, renderer=renderer, **parameters)
    return refused.value


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (["Hello"], "messages[0]"),
        ([{"content": "Hello"}], "messages[0].role"),
        ([{"role": ["user"], "content": "Hello"}], "messages[0].role"),
        ([USER, {"role": "critic", "content": "Hello"}], "messages[1].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "system", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "content": ["Hello"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "Hello"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}], "messages[0].content[0].image_url"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].image_url.url",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}],
            "messages[0].content[0].input_audio.format",
        ),
        ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0].file"),
        (
            [{"role": "user", "content": [{"type": "file", "file": {"file_id": 1}}]}],
            "messages[0].content[0].file.file_id",
        ),
        ([{"role": "assistant", "content": 1}], "messages[0].content"),
        ([{"role": "assistant", "content": [{"type": "refusal"}]}], "messages[0].content[0].refusal"),
        ([{"role": "assistant", "refusal": 1}], "messages[0].refusal"),
        ([{"role": "assistant", "audio": {}}], "messages[0].audio.id"),
        ([{"role": "assistant", "function_call": {"name": "look"}}], "messages[0].function_call.arguments"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [1]}], "messages[0].tool_calls[0]"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": None}]}], "messages[0].tool_calls[0].id"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "x"}]}], "messages[0].tool_calls[0].type"),
        ([{"role": "assistant", "tool_calls": [{"id": "call_1"}]}], "messages[0].tool_calls[0].function"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}], "messages[0].tool_calls[0].custom"),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "look", "arguments": {}}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": [CALL, CALL]}], "messages[0].tool_calls[1].id"),
        ([{**USER, "tool_calls": "abc"}], "messages[0].tool_calls"),
        ([USER, CALLING, {**OUTPUT, "tool_calls": [CALL]}], "messages[2].tool_calls"),
        (
            [{"role": "system", "content": "", "function_call": {}}, {**USER, "function_call": 1}],
            "messages[1].function_call",
        ),
        ([USER, OUTPUT], "messages[1].tool_call_id"),
        ([USER, CALLING, {**OUTPUT, "tool_call_id": "call_2"}], "messages[2].tool_call_id"),
        ([USER, CALLING, {"role": "tool", "content": "blue"}], "messages[2].tool_call_id"),
        ([USER, CALLING, OUTPUT, OUTPUT], "messages[3].tool_call_id"),
        ([USER, OUTPUT, CALLING], "messages[1].tool_call_id"),
        ([{"role": "function", "content": "blue"}], "messages[0].name"),
        ([{"role": "function", "name": "look", "content": []}], "messages[0].content"),
    ],
)
def test_the_refusal_of_a_wrong_message_names_the_field(messages: list[Any], param: str) -> None:
    error = refusal(*messages)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert error.message.startswith(f"Invalid `{param}`: ")
    assert "blue" not in error.message


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "assistant", "content": "Hi"}, USER],
        [USER, {"role": "assistant"}, USER],
        [USER, CALLING],
        [USER, CALLING, OUTPUT, {**CALLING}, {**OUTPUT}],
        [USER, CALLING, {"role": "user", "content": "Wait"}, {"role": "system", "content": "Go on."}, OUTPUT],
        [USER, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "look", "arguments": ""}}]}],
        [USER, {"role": "assistant", "content": "", "tool_calls": [], "parsed": None, "annotations": [], "x": 1}],
        [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "a"}}], "name": "Ada"}],
        [USER, {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}}],
        [USER, {"role": "function", "name": "look", "content": None}],
        [{**USER, "tool_calls": [], "function_call": None}],
    ],
)
def test_unusual_messages_are_accepted_unchanged(messages: list[dict[str, Any]]) -> None:
    assert body_of(*messages).messages == messages


def test_a_tool_message_may_answer_a_call_that_is_stored_already() -> None:
    assert body_of(OUTPUT, conversation="conv_1").messages == [OUTPUT]
    assert refusal(OUTPUT).param == "messages[0].tool_call_id"
    assert refusal(OUTPUT, OUTPUT, conversation="conv_1").param == "messages[1].tool_call_id"


def test_messages_and_parameters_have_limits() -> None:
    assert MAX_CHAT_BYTES <= MAX_READ_BYTES
    body_of(*[USER] * MAX_MESSAGES)
    assert refusal(*[USER] * (MAX_MESSAGES + 1)).param == "messages"
    with pytest.raises(ApiError) as refused:
        validate_body(CreateChatCompletion, b'{"messages": []}')
    assert refused.value.param == "messages"
    error = refusal(USER, {"role": "user", "content": "a" * 2**20})
    assert (error.status, error.code, error.param) == (413, "item_too_large", "messages[1]")
    body_of(USER, {"role": "assistant", "content": "a" * 2**20})
    assert refusal({"role": "assistant", "content": "a" * MAX_ANSWER_BYTES}).param == "messages[0]"
    assert refusal(top_k="a" * 2**20).status == 413


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"top_p": -0.1}, "invalid_value", "top_p"),
        ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
        ({"frequency_penalty": "high"}, "invalid_value", "frequency_penalty"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": 1.5}, "invalid_value", "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "mutually_exclusive_parameters", "max_tokens"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"stop": 5}, "invalid_value", "stop"),
        ({"stop": ["a", 5]}, "invalid_value", "stop[1]"),
        ({"logit_bias": {"50256": -101}}, "invalid_value", "logit_bias.50256"),
        ({"logprobs": 1}, "invalid_value", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"modalities": ["smell"]}, "invalid_value", "modalities[0]"),
        ({"verbosity": "loud"}, "invalid_value", "verbosity"),
        ({"reasoning_effort": 3}, "invalid_value", "reasoning_effort"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
        ({"user": "a" * 513}, "invalid_value", "user"),
        ({"stream_options": {"include_usage": "yes"}}, "invalid_value", "stream_options.include_usage"),
        ({"conversation": 5}, "invalid_value", "conversation"),
        ({"conversation": {}}, "invalid_value", "conversation.id"),
        ({"prediction": {"type": "content"}}, "invalid_value", "prediction.content"),
        ({"moderation": {"model": "m", "policy": {"input": {"mode": "block"}}}}, "unsupported_parameter", "moderation.policy.input.mode"),
        ({"prompt_cache_options": {"prewarm": True}}, "unsupported_parameter", "prompt_cache_options.prewarm"),
        ({"input": "Hello"}, "unknown_parameter", "input"),
        ({"previous_response_id": "resp_1"}, "unknown_parameter", "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools[0].type"),
        ({"tools": [{"type": "function", "name": "look"}]}, "invalid_value", "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_value", "tools[0].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "w", "format": {"type": "x"}}}]}, "invalid_value", "tools[0].custom.format.type"),
        ({"tools": [TOOL] * 129}, "invalid_value", "tools"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tool_choice": "maybe"}, "invalid_value", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "look"}}, "invalid_value", "tool_choice.function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "look"}}}, "invalid_value", "tool_choice.custom.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "invalid_value", "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}}, "invalid_value", "tool_choice.allowed_tools.mode"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1]}}}, "invalid_value", "tool_choice.allowed_tools.tools[0].type"),
        ({"tools": [TOOL], "functions": [FUNCTION]}, "mutually_exclusive_parameters", "functions"),
        ({"functions": [FUNCTION], "function_call": {"name": "other"}}, "invalid_value", "function_call.name"),
        ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}}, "invalid_json_schema", "response_format.json_schema.schema"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]}, "invalid_function_parameters", "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_the_refusal_of_a_wrong_parameter_names_the_parameter(
    parameters: dict[str, Any], code: str, param: str
) -> None:
    error = refusal(**parameters)
    assert (error.status, error.code, error.param) == (400, code, param)


CHAT_ONLY: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "function_call": {"name": "look"},
    "functions": [FUNCTION],
    "logit_bias": {"50256": -100},
    "prediction": {"type": "content", "content": "Hello"},
    "seed": 7,
    "stop": ["\n"],
    "top_k": 40,
    "web_search_options": {},
}
ALL: dict[str, Any] = {
    "frequency_penalty": 1,
    "max_completion_tokens": 100,
    "metadata": {"a": "b"},
    "model": "m",
    "moderation": {"model": "omni-moderation-latest"},
    "n": 1,
    "parallel_tool_calls": False,
    "presence_penalty": None,
    "prompt_cache_key": "k",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1,
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]}},
    "tools": [TOOL, CUSTOM],
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
}  # fmt: skip


def test_parameters_are_recorded_in_the_forms_of_both_apis() -> None:
    recorded = body_of(**ALL, **{name: CHAT_ONLY[name] for name in ("seed", "top_k")}).recorded_parameters()
    chat = recorded.pop("chat")
    own = {"model", "stream", "store", "metadata"}
    as_sent = {name: value for name, value in ALL.items() if name not in own} | {"seed": 7, "top_k": 40}
    assert msgspec.json.encode(chat, order="sorted") == msgspec.json.encode(as_sent, order="sorted")
    assert recorded == {
        "frequency_penalty": 1,
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "moderation": {"model": "omni-moderation-latest"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low"},
        "safety_identifier": "s",
        "service_tier": "flex",
        "store": True,
        "stream_options": {"include_usage": True},
        "temperature": 1,
        "text": {
            "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            "verbosity": "low",
        },
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
        "tools": [
            {"type": "function", **FUNCTION},
            {"type": "custom", "name": "write", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
        ],
        "top_p": 0.5,
        "user": "u",
    }


def test_functions_of_the_old_form_are_also_recorded_as_tools() -> None:
    recorded = body_of(functions=[FUNCTION], function_call={"name": "look"}, max_tokens=9).recorded_parameters()
    assert recorded["tools"] == [{"type": "function", **FUNCTION}]
    assert recorded["tool_choice"] == {"type": "function", "name": "look"}
    assert recorded["max_output_tokens"] == 9
    assert recorded["chat"] == {"functions": [FUNCTION], "function_call": {"name": "look"}, "max_tokens": 9}


@pytest.mark.parametrize("name", CHAT_ONLY)
def test_chat_only_parameters_are_refused_for_responses_providers_and_conversations(
    name: str,
) -> None:
    parameters = {name: CHAT_ONLY[name]} | ({"functions": [FUNCTION]} if name == "function_call" else {})
    body_of(**parameters)
    for error in (refusal(renderer=RESPONSES, **parameters), _refused_in_conversation(**parameters)):
        assert (error.status, error.code, error.param) == (400, "unsupported_parameter", name)


def test_log_probabilities_are_refused_with_a_conversation() -> None:
    error = _refused_in_conversation(logprobs=True, top_logprobs=3)
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "logprobs")


def _refused_in_conversation(**parameters: Any) -> ApiError:
    body = body_of(**parameters, conversation="conv_1")
    with pytest.raises(ApiError) as refused:
        body.as_response_request(stored=True)
    return refused.value


def test_a_responses_provider_accepts_parameters_that_are_not_chat_only() -> None:
    nothing = {"n": 1, "stop": [], "logit_bias": {}, "logprobs": False, "top_logprobs": 0, "modalities": ["text"]}
    body_of(renderer=RESPONSES, **ALL)
    body_of(renderer=RESPONSES, **nothing)
    body_of(renderer=RESPONSES, **dict.fromkeys([*CHAT_ONLY, *ALL]))
    error = refusal(USER, {"role": "assistant", "audio": {"id": "a"}}, renderer=RESPONSES)
    assert (error.code, error.param) == ("unsupported_parameter", "messages[1].audio")


def test_a_request_with_a_conversation_becomes_a_request_of_the_responses_api() -> None:
    instructions = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    ]
    later = {"role": "system", "content": "Now be long."}
    body = body_of(*instructions, USER, later, **ALL, conversation={"id": "conv_1"})
    request = body.as_response_request(stored=True)
    request.check()
    assert (body.conversation_id, request.conversation_id) == ("conv_1", "conv_1")
    assert request.instructions == "Be brief.\n\nBe kind."
    assert request.input == [
        {"type": "message", "role": "user", "content": "Hello"},
        {"type": "message", "role": "system", "content": "Now be long."},
    ]
    recorded = body.recorded_parameters()
    del recorded["chat"]
    assert request.parameters() == recorded | {"instructions": "Be brief.\n\nBe kind."}
    assert (request.model, request.stream) == ("m", True)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("always", [True, True, False]), ("requested", [False, True, False]), ("never", [False, False, False])],
)
def test_the_setting_and_the_request_decide_whether_a_completion_is_stored(policy: Any, expected: list[bool]) -> None:
    assert [is_stored({"store": store}, policy) for store in (None, True, False)] == expected


def test_every_parameter_of_the_official_client_is_a_field() -> None:
    official = {*CompletionCreateParamsNonStreaming.__annotations__}
    for base in CompletionCreateParamsNonStreaming.__orig_bases__:  # type: ignore[attr-defined]
        official |= {*getattr(base, "__annotations__", {})}
    assert len(official) > 30
    assert official <= {*CreateChatCompletion.model_fields}
