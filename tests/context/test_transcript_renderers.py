"""Renderers 6 and 7 send the messages of a Chat Completions request. Their output never changes."""

from typing import Any

import pytest

from context.rendering import render_transcript, renders_transcripts, request_sha256, uses_responses_api

CACHED = {"prompt_cache_breakpoint": {"mode": "explicit"}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind.", "name": "rules"},
    {"role": "developer", "content": [{"type": "text", "text": "Be brief.", **CACHED}]},
    {
        "role": "user",
        "name": "ann",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/y.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/z.png"}, **CACHED},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
            {"type": "file", "file": {"file_id": "file-1"}},
        ],
    },
    {
        "role": "assistant",
        "content": "Let me look.",
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1'}},
            {"id": "c2", "type": "custom", "custom": {"name": "py", "input": "1+1"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c2", "content": "2"},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c8", "content": "answers no call"},
    {"role": "assistant", "content": None, "function_call": {"name": "old", "arguments": "{}"}},
    {"role": "function", "name": "old", "content": None},
    {"role": "system", "content": "From now on in French."},
    {"role": "assistant", "content": [{"type": "text", "text": "Oui."}, {"type": "refusal", "refusal": "Non."}]},
    {"role": "assistant", "content": "Hm.", "refusal": "No."},
    {"role": "assistant", "refusal": "No."},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "", "refusal": "no refusal"},
]

PARAMETERS: dict[str, Any] = {
    "temperature": 0,
    "max_output_tokens": 5,
    "metadata": {"ours": "alone"},
    "tools": [
        {"type": "function", "name": "look", "parameters": {"type": "object"}},
        {"type": "function", "name": "see", "strict": True},
        {"type": "custom", "name": "py"},
    ],
    "tool_choice": {"type": "function", "name": "look"},
    "text": {"format": {"type": "json_object"}},
    "chat": {
        "temperature": 0,
        "max_completion_tokens": 5,
        "seed": None,
        "top_k": 40,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": None}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "stream_options": {"include_usage": False, "include_obfuscation": False},
    },
}

INPUT: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": "Be kind."},
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief.", **CACHED}]},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "https://example.org/y.png", "detail": "low"},
            {"type": "input_image", "image_url": "https://example.org/z.png", "detail": "auto", **CACHED},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {"type": "input_file", "file_id": "file-1"},
        ],
    },
    {"type": "message", "role": "assistant", "content": "Let me look."},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1'},
    {"type": "custom_tool_call", "call_id": "c2", "name": "py", "input": "1+1"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "2"},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
    {"type": "function_call", "call_id": "c3", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c8", "output": "answers no call"},
    {"type": "function_call", "call_id": "function_call_old", "name": "old", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "function_call_old", "output": ""},
    {"type": "message", "role": "system", "content": "From now on in French."},
    {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "Oui.", "annotations": []},
            {"type": "refusal", "refusal": "Non."},
        ],
    },
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hm.", "annotations": []}, {"type": "refusal", "refusal": "No."}],
    },
    {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"type": "message", "role": "assistant", "content": ""},
    {"type": "message", "role": "user", "content": ""},
]


def rendered(renderer: int, parameters: dict[str, Any] = PARAMETERS) -> dict[str, Any]:
    return render_transcript(renderer, model="m", messages=MESSAGES, parameters=parameters)


def test_renderer_6_sends_messages_and_parameters_as_they_came_and_asks_for_usage() -> None:
    body = rendered(6)
    assert body == {
        **PARAMETERS["chat"],
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    assert request_sha256(body).hex() == "59ff9ba78be92865f2e57b6299e8225f9566eed9f879186c2838dced18245806"
    sent: list[dict[str, Any]] = [{"stream_options": None}, {"stream_options": {}}, {}]
    for chat in sent:
        body = rendered(6, {"chat": chat})
        assert body["stream_options"] == {"include_usage": True}


def test_renderer_7_sends_the_messages_as_items() -> None:
    body = rendered(7)
    look, see, custom = PARAMETERS["tools"]
    assert body == {
        "model": "m",
        "input": INPUT,
        "stream": True,
        "store": False,
        "temperature": 0,
        "max_output_tokens": 5,
        "tools": [{**look, "strict": False}, see, custom],
        "tool_choice": {"type": "function", "name": "look"},
        "text": {"format": {"type": "json_object"}},
    }
    assert request_sha256(body).hex() == "333721ee8e696bec055cd1d4399805793fb28a0faebf9877c7945e867ee449b3"


@pytest.mark.parametrize("renderer", [6, 7])
def test_renderers_6_and_7_do_not_change_their_arguments(renderer: int) -> None:
    before = request_sha256({"messages": MESSAGES, "parameters": PARAMETERS})
    rendered(renderer)
    assert request_sha256({"messages": MESSAGES, "parameters": PARAMETERS}) == before


def test_only_renderers_6_and_7_of_the_first_seven_render_transcripts() -> None:
    assert [renderer for renderer in range(1, 8) if renders_transcripts(renderer)] == [6, 7]
    assert [renderer for renderer in range(1, 8) if uses_responses_api(renderer)] == [3, 5, 7]
