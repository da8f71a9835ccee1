"""The requests that renderers make, the items that are left out, and how items are counted.

The bytes that a renderer makes must never change. If a test of a SHA-256 fails, undo the change and write a new renderer.
"""

from typing import Any

import msgspec
import pytest

from context.item_tokens import counted_text, fixed_tokens
from context.rendering import CHAT, RESPONSES, render, render_transcript, request_sha256, unsendable
from context.rendering.orphans import orphans

OUR_SUMMARY = "eyJzdW1tYXJ5IjoiVGhleSBtZXQuIn0="
"""{"summary":"They met."} in base64."""

ITEMS: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "https://example.org/y.png", "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            {"type": "input_file", "file_id": "file-1"},
            {"type": "input_file", "file_url": "https://example.org/z.pdf"},
        ],
    },
    {"type": "reasoning", "summary": [], "encrypted_content": "gAAA", "status": "completed"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
    {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Let me look."}],
    },
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}", "status": "completed"},
    {"type": "reasoning", "summary": []},
    {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"a":1'},
    {"role": "user", "content": "meanwhile"},
    {
        "type": "function_call_output",
        "call_id": "c2",
        "output": [{"type": "input_text", "text": "two"}, {"type": "input_image", "file_id": "file-2"}],
    },
    {"type": "function_call_output", "call_id": "c1", "output": "one"},
    {"type": "custom_tool_call", "call_id": "c3", "name": "py", "input": "1+1", "status": "completed"},
    {"type": "custom_tool_call_output", "call_id": "c3", "output": "2"},
    {"type": "function_call", "call_id": "c9", "name": "lost", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c8", "output": "lost"},
    {"type": "compaction", "encrypted_content": OUR_SUMMARY},
    {"type": "compaction", "encrypted_content": "not ours"},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "developer", "content": "Be kind."},
    {"type": "of_tomorrow", "a": 1},
]

PARAMETERS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 5,
    "metadata": {"ours": "alone"},
    "truncation": "auto",
    "previous_response_id": "resp_1",
    "tools": [
        {"type": "function", "name": "look", "description": None, "parameters": {"type": "object"}, "strict": True},
        {
            "type": "custom",
            "name": "py",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: NUMBER"},
        },
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "answer", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
}

IN_CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "a\n\nb"},
        {"role": "system", "content": "Summary of the conversation so far:\nS"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/y.png", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "text", "text": "[input_file not shown]"},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"a":1'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two\n[input_image not shown]"},
        {"role": "user", "content": "meanwhile"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c3", "type": "custom", "custom": {"name": "py", "input": "1+1"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "2"},
        {"role": "system", "content": "Summary of the conversation so far:\nThey met."},
        {"role": "assistant", "content": "No."},
        {"role": "system", "content": "Be kind."},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 5,
    "tools": [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}},
        {
            "type": "custom",
            "custom": {
                "name": "py",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: NUMBER"}},
            },
        },
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]},
    },
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}, "strict": True}},
    "verbosity": "low",
    "reasoning_effort": "low",
}

IN_RESPONSES: dict[str, Any] = {
    "model": "m",
    "input": [
        {"type": "message", "role": "system", "content": "Summary of the conversation so far:\nS"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "https://example.org/y.png", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                {"type": "input_file", "file_id": "file-1"},
                {"type": "input_file", "file_url": "https://example.org/z.pdf"},
            ],
        },
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"a":1'},
        {"type": "message", "role": "user", "content": "meanwhile"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}, {"type": "input_image", "file_id": "file-2"}],
        },
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "py", "input": "1+1"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "2"},
        {"type": "message", "role": "system", "content": "Summary of the conversation so far:\nThey met."},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "message", "role": "developer", "content": "Be kind."},
    ],
    "stream": True,
    "store": False,
    "instructions": "a\n\nb",
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 5,
    "tools": [
        {"type": "function", "name": "look", "description": None, "parameters": {"type": "object"}, "strict": True},
        {
            "type": "custom",
            "name": "py",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: NUMBER"},
        },
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "answer", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
}


HASHES_WITH_ADDED_PARAMETERS = [
    "254997fb0da23dc448b3c96761f90dc82b7bc0fb854a0f762d3be6f1e6cd6a75",
    "1e69e3cfd81ec56de6386b76e88872ea5845a92c25e6b648975ead86fbbe9767",
    "9c1fb289e1d8250da08684f393c45afdb25c0a0bd83849dc127d882c49c55f38",
    "842fc550355252c53f54fb97f50463ba94a4cc2258f67753cd9107ab66f87917",
]
"""SHA-256 of the request body, for renderers 2 to 5."""


def rendered(renderer: int) -> dict[str, Any]:
    return render(renderer, model="m", instructions=["a", "b"], summary="S", items=ITEMS, parameters=PARAMETERS)


def test_the_output_of_renderer_1_has_not_changed() -> None:
    assert request_sha256(rendered(1)).hex() == "df82756c55c734e51fd24cc018b9e3a5495471a1228201927583ba8dac15e092"


def test_the_output_of_renderers_2_and_4_has_not_changed() -> None:
    assert rendered(4) == rendered(2) == IN_CHAT
    assert request_sha256(rendered(2)).hex() == "930eea8005c0dfaa272ce3db5c88c5571096f4ab5af02e841d8a90efe535f327"


def test_the_output_of_renderers_3_and_5_has_not_changed() -> None:
    assert rendered(5) == rendered(3) == IN_RESPONSES
    assert request_sha256(rendered(3)).hex() == "82af454b886d666e3679041de0da00cb54ec390ede028400f95c8d9c71978c91"


def test_renderers_4_and_5_send_parameters_in_the_form_of_their_api() -> None:
    cache_options = {"mode": "explicit", "ttl": "12h"}
    in_both = {
        "frequency_penalty": -0.5,
        "moderation": {"model": "omni-moderation-latest"},
        "presence_penalty": 1.5,
        "prompt_cache_key": "k",
        "prompt_cache_options": cache_options,
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "service_tier": "flex",
        "user": "u",
    }
    only_responses = {
        "access_programs": {"cyber": "standard"},
        "client_metadata": {"session": "1"},
        "image": {"context_compression": "disabled"},
        "max_tool_calls": 3,
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    parameters = {
        **in_both,
        **only_responses,
        "prompt_cache_options": {**cache_options, "comparison_response_id": "resp_1", "prewarm": False},
        "stream_options": {"include_obfuscation": False, "include_usage": True},
        "background_options": {"continuation_id": "c"},
    }
    bodies = {
        renderer: render(renderer, model="m", instructions=[], summary=None, items=[], parameters=parameters)
        for renderer in (2, 3, 4, 5)
    }
    assert bodies[4] == {
        "model": "m",
        "messages": [],
        "stream": True,
        "reasoning_effort": "low",
        **in_both,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    assert bodies[5] == {
        "model": "m",
        "input": [],
        "stream": True,
        "store": False,
        **in_both,
        **only_responses,
        "stream_options": {"include_obfuscation": False},
    }
    assert [request_sha256(bodies[renderer]).hex() for renderer in (2, 3, 4, 5)] == HASHES_WITH_ADDED_PARAMETERS


def test_a_cache_breakpoint_is_sent_with_its_part_to_the_responses_api() -> None:
    end = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    parts: list[dict[str, Any]] = [
        {"type": "input_text", "text": "a", **end},
        {"type": "text", "text": "b", "prompt_cache_breakpoint": "x"},
        {"type": "input_image", "image_url": "https://example.org/y.png", "detail": "auto", **end},
    ]
    items = [ITEMS[2], {"role": "user", "content": parts}, {"role": "user", "content": "c"}]
    body = render(RESPONSES, model="m", instructions=[], summary="S", items=items, parameters={})
    assert body["input"][1:] == [
        {"type": "message", "role": "user", "content": [parts[0], {"type": "input_text", "text": "b"}, parts[2]]},
        {"type": "message", "role": "user", "content": "c"},
    ]


def test_a_penalty_of_zero_is_not_sent() -> None:
    for renderer in (CHAT, RESPONSES):
        parameters = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
        body = render(renderer, model="m", instructions=[], summary=None, items=[], parameters=parameters)
        assert not parameters.keys() & body.keys()


def test_renderer_6_refuses_items_and_renderer_5_refuses_transcripts() -> None:
    with pytest.raises(ValueError, match="No renderer 6 of items"):
        rendered(6)
    with pytest.raises(ValueError, match="No renderer 6 of items"):
        unsendable(6, [])
    with pytest.raises(ValueError, match="No renderer 5 of transcripts"):
        render_transcript(5, model="m", messages=[], parameters={})


def test_items_that_are_not_sent_are_listed_with_their_reasons() -> None:
    orphaned = {12: "orphaned_call", 13: "orphaned_output"}
    not_expressible = {15: "not_expressible", 19: "not_expressible"}
    no_reasoning = {2: "reasoning", 5: "reasoning"}
    assert unsendable(4, ITEMS) == {1: "reasoning", 16: "not_expressible"} | orphaned | not_expressible | no_reasoning
    assert unsendable(5, ITEMS) == orphaned | not_expressible | no_reasoning
    assert unsendable(8, ITEMS) == orphaned | no_reasoning | {1: "reasoning"}
    assert unsendable(9, ITEMS) == orphaned | no_reasoning


def test_unsendable_items_do_not_change_what_is_sent() -> None:
    for renderer, expected in ((4, IN_CHAT), (5, IN_RESPONSES), (8, rendered(8)), (9, rendered(9))):
        left_out = unsendable(renderer, ITEMS)
        sendable = [item for index, item in enumerate(ITEMS) if index not in left_out]
        assert unsendable(renderer, sendable) == {}
        body = render(renderer, model="m", instructions=["a", "b"], summary="S", items=sendable, parameters=PARAMETERS)
        assert body == expected


def test_ids_that_a_client_gave_to_items_are_not_sent() -> None:
    with_ids = [{**item, "id": f"client_{index}"} for index, item in enumerate(ITEMS)]
    for renderer in (1, 2, 3, 4, 5, 8, 9):
        body = render(renderer, model="m", instructions=["a", "b"], summary="S", items=with_ids, parameters=PARAMETERS)
        assert body == rendered(renderer)


@pytest.mark.parametrize("renderer", [5, 9])
def test_ids_are_sent_only_for_items_that_need_an_id(renderer: int) -> None:
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "user", "content": "Q", "id": "client"},
        {"type": "function_call_output", "call_id": "lost", "output": ""},
        {"type": "mcp_approval_request", "arguments": "{}", "name": "n", "server_label": "s", "id": "client"},
        {"type": "mcp_approval_response", "approve": True, "approval_request_id": "item_2"},
        {"type": "local_shell_call", "call_id": "c", "action": {}, "status": "completed"},
        {"type": "local_shell_call_output", "call_id": "c", "output": ""},
        {"type": "image_generation_call", "status": "completed", "result": "AA=="},
    ]
    ids = [f"item_{index}" for index in range(len(items))]
    for summary in (None, "S"):
        body = render(renderer, model="m", instructions=[], summary=summary, items=items, parameters={}, item_ids=ids)
        sent = body["input"][summary is not None :]
        assert [item.get("id") for item in sent] == [None, "item_2", None, "item_4", "c", "item_6"]
        assert {**sent[1], "id": None} == {**items[2], "id": None}
        assert sent[0] == {"type": "message", "role": "user", "content": "Q"}


def call(call_id: str, kind: str = "function_call") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "name": "f", "arguments": "", "input": ""}


def output(call_id: str, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "output": ""}


@pytest.mark.parametrize(
    ("items", "orphaned"),
    [
        ([call("a"), output("a")], {}),
        ([call("a"), call("b"), output("b"), output("a")], {}),
        ([output("a"), call("a")], {0: "orphaned_output", 1: "orphaned_call"}),
        ([call("a"), output("a"), output("a")], {2: "orphaned_output"}),
        ([call("a"), call("a"), output("a")], {0: "orphaned_call"}),
        ([call("a"), output("a"), call("a"), output("a")], {}),
        ([call("a"), output("a", "custom_tool_call_output")], {0: "orphaned_call", 1: "orphaned_output"}),
        ([call("a", "shell_call"), output("a", "shell_call_output")], {}),
        ([{"type": "computer_call", "call_id": "a"}], {0: "orphaned_call"}),
        ([{"type": "web_search_call"}, {"type": "mcp_call"}, {"role": "user", "content": "hi"}], {}),
    ],
)
def test_calls_without_an_output_and_outputs_without_a_call_are_found(
    items: list[dict[str, Any]], orphaned: dict[int, str]
) -> None:
    assert orphans(items) == orphaned


@pytest.mark.parametrize(
    ("choice", "in_chat"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "custom", "name": "f"}, {"type": "custom", "custom": {"name": "f"}}),
    ],
)
def test_a_tool_choice_is_rendered_for_each_api(choice: Any, in_chat: Any) -> None:
    parameters = {"tools": [{"type": "function", "name": "f"}], "tool_choice": choice}
    for renderer, expected in ((CHAT, in_chat), (RESPONSES, choice)):
        body = render(renderer, model="m", instructions=[], summary=None, items=[], parameters=parameters)
        assert body["tool_choice"] == expected


def test_without_tools_no_tool_choice_is_sent() -> None:
    parameters = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "text": {"format": {"type": "text"}}}
    for renderer in (CHAT, RESPONSES):
        body = render(renderer, model="m", instructions=[], summary=None, items=[], parameters=parameters)
        assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls", "response_format", "instructions"}


def test_our_own_parameters_and_ids_of_messages_are_not_sent() -> None:
    items = [{"id": "msg_1", **ITEMS[3]}]
    for renderer in (CHAT, RESPONSES):
        body = render(renderer, model="m", instructions=[], summary=None, items=items, parameters=PARAMETERS)
        assert not {"metadata", "conversation", "previous_response_id", "truncation", "id"} & body.keys()
        assert "msg_1" not in msgspec.json.encode(body).decode()
        assert "resp_1" not in msgspec.json.encode(body).decode()


@pytest.mark.parametrize("renderer", [1, CHAT, RESPONSES])
def test_malformed_items_are_rendered_and_counted_without_an_error(renderer: int) -> None:
    parts: list[Any] = [{"type": "input_image", "image_url": 5}, {"type": "refusal", "refusal": 7}, {"type": "odd"}]
    odd: list[dict[str, Any]] = [
        {"role": "user", "content": parts},
        {"role": "user", "content": []},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""},
        {"type": "function_call_output", "call_id": "a", "output": [1, None, *parts]},
        {"type": "compaction", "encrypted_content": 7},
        {"type": "compaction", "encrypted_content": "/////w=="},
        {"type": "x_call", "call_id": 5},
    ]
    render(renderer, model="m", instructions=[], summary=None, items=odd, parameters={})
    for item in odd:
        assert isinstance(counted_text(item), str)
        assert fixed_tokens(item) >= 0


def test_text_images_files_and_encrypted_content_are_counted() -> None:
    assert counted_text(ITEMS[10]) == "py\n1+1"
    assert counted_text(ITEMS[14]) == "Summary of the conversation so far:\nThey met."
    assert "query" in counted_text(ITEMS[16])
    assert fixed_tokens(ITEMS[0]) == 4 + 1_105 + 3 * 2_000
    assert fixed_tokens({"type": "reasoning", "encrypted_content": "x" * 50}) == 4 + 10
    picture = {"type": "computer_call_output", "call_id": "a", "output": {"image_url": "data:" + "x" * 10_000}}
    assert len(counted_text(picture)) < 100
