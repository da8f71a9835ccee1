"""`first_unsupported` names the first parameter or input item that the API or the model cannot take."""

from typing import Any

import pytest

from context.rendering import CHAT, RESPONSES, render
from context.rendering.unsupported import first_unsupported
from tests.context.test_renderers import ITEMS, PARAMETERS

TOOL = {"type": "function", "name": "f"}
CALL = {"type": "function_call", "call_id": "a", "name": "f"}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({}, None),
        (PARAMETERS, None),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": ["auto"]}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [TOOL]}}, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
        ),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": 5}, "text"),
        ({"reasoning": {"effort": "low", "summary": None}}, None),
        ({"reasoning": {"summary": "auto", "generate_summary": "auto", "context": "auto", "mode": "standard"}}, None),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
        ({"reasoning": "low"}, "reasoning"),
        ({"access_programs": {"cyber": "standard"}, "image": {"context_compression": "disabled"}}, None),
        ({"access_programs": {"cyber": "daybreak_red"}}, "access_programs.cyber"),
        ({"image": {"context_compression": "enabled"}}, "image.context_compression"),
        ({"max_tool_calls": 1}, None),
    ],
)
def test_a_parameter_that_the_chat_completions_api_cannot_take_is_named(
    parameters: dict[str, Any], param: str | None
) -> None:
    refused = first_unsupported(CHAT, parameters, [])
    assert (refused and refused[0]) == param
    if refused is None:
        render(CHAT, model="m", instructions=[], summary=None, items=[], parameters=parameters)


@pytest.mark.parametrize(
    ("item", "in_chat", "in_responses"),
    [
        (user({"type": "input_text", "text": "hi"}), None, None),
        (user({"type": "input_text", "text": "hi"}, {"type": "input_image", "file_id": "f"}), "content[1]", None),
        (user({"type": "input_file", "file_id": "f"}), None, None),
        (user({"type": "input_file", "file_url": "https://example.org/a"}), "content[0]", None),
        (
            {"role": "assistant", "content": [{"type": "input_image", "image_url": "https://x"}]},
            "content[0]",
            "content[0]",
        ),
        (user({"type": "input_image", "image_url": 5}), "content[0]", "content[0]"),
        (user({"type": "of_tomorrow"}), "content[0]", None),
        (CALL | {"arguments": '{"cut'}, None, None),
        ({"type": "reasoning", "summary": []}, None, None),
        ({"type": "computer_call", "call_id": "c"}, "type", None),
        ({"type": "of_tomorrow"}, "type", "type"),
        ({"type": "compaction", "encrypted_content": "theirs"}, "encrypted_content", "encrypted_content"),
        ({"type": "function_call_output", "call_id": "a", "output": "no call here, but perhaps before"}, None, None),
        (
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image"}]},
            "output[0]",
            "output[0]",
        ),
    ],
)
def test_an_input_item_that_an_api_cannot_take_is_named(
    item: dict[str, Any], in_chat: str | None, in_responses: str | None
) -> None:
    for renderer, field in ((CHAT, in_chat), (RESPONSES, in_responses)):
        refused = first_unsupported(renderer, {}, [ITEMS[3], item])
        assert (refused and refused[0]) == (field and f"input[1].{field}")


def test_an_input_item_that_this_model_cannot_take_is_named() -> None:
    image = {"type": "input_image", "image_url": "https://example.org/a.png"}
    custom = {"type": "custom_tool_call", "call_id": "a", "name": "f", "input": ""}
    items = [user({"type": "input_text", "text": "hi"}, image), custom, CALL | {"arguments": "{}"}]
    for renderer in (CHAT, RESPONSES):
        for missing, path in (
            ({"image", "tools"}, "input[0].content[1]"),
            ({"custom_tools"}, "input[1].type"),
            ({"tools"}, "input[2].type"),
            ({"file", "audio"}, None),
        ):
            refused = first_unsupported(renderer, {}, items, missing)
            assert (refused and refused[0]) == path
            assert refused is None or "This model cannot take" in refused[1]


def test_a_part_that_the_responses_api_lacks_is_refused() -> None:
    for kind, ours in (("image_url", "input_image"), ("file", "input_file"), ("audio_of_tomorrow", None)):
        refused = first_unsupported(CHAT, {}, [user({"type": kind, kind: {}})])
        assert refused is not None
        assert ("Use" in refused[1]) is (ours is not None)
        assert (ours or "") in refused[1]
