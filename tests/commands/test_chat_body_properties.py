"""A random body of a Chat Completions request is refused with 400, or can be rendered for the provider."""

from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commands.chat_body import CreateChatCompletion
from context.rendering import (
    CHAT,
    RESPONSES,
    TRANSCRIPT_CHAT,
    TRANSCRIPT_RESPONSES,
    render_transcript,
    uses_responses_api,
)
from context.transcripts.chat_messages import custom_calls, items_of, messages_of
from context.transcripts.known_messages import KnownMessages
from context.transcripts.message_changes import changed, changes_between
from domain.items import as_stored, checked_item
from infrastructure.http.body import validate_body
from infrastructure.http.errors import ApiError
from replies.effective_parameters import effective_parameters

WORDS = (
    *("role", "content", "type", "text", "name", "id", "function", "custom", "arguments", "input", "tool_call_id"),
    *("tool_calls", "function_call", "refusal", "audio", "image_url", "url", "file", "file_id", "input_audio"),
    *("user", "assistant", "system", "tool", "json_schema", "schema", "format", "grammar", "mode", "allowed_tools"),
    *("auto", "required", "object", "tools", "parameters", "call_1", "look"),
)
texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats(-1, 3) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
calls = st.one_of(
    st.just({"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}),
    st.just({"id": "call_1", "type": "custom", "custom": {"name": "look", "input": ""}}),
    values,
)
parts = st.one_of(
    st.just({"type": "text", "text": "Hello"}),
    st.builds(lambda kind, value: {"type": kind, kind: value}, texts, values),
    values,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "function"]) | values},
    optional={
        "content": st.just("Hello") | st.lists(parts, max_size=3) | values,
        "tool_calls": st.lists(calls, max_size=2) | values,
        "tool_call_id": st.just("call_1") | values,
        "function_call": st.just({"name": "look", "arguments": "{}"}) | values,
        "refusal": values,
        "audio": values,
        "name": values,
    },
)
tools = st.builds(lambda kind, tool: {"type": kind, kind: tool}, st.sampled_from(["function", "custom"]), values)
parameters = st.dictionaries(st.sampled_from([*CreateChatCompletion.model_fields]), values, max_size=3)
objects = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(st.just({"type": "function", "function": {"name": "look"}}) | tools, max_size=2),
        "tool_choice": st.builds(lambda kind, value: {"type": kind, kind: value}, texts, values),
        "response_format": st.builds(lambda value: {"type": "json_schema", "json_schema": value}, values),
    },
)


def accepted(sent: dict[str, Any], renderer: int) -> CreateChatCompletion | None:
    """The body after its checks, or None if it is refused."""
    try:
        body = validate_body(CreateChatCompletion, msgspec.json.encode(sent))
        body.check(renderer, KnownMessages())
    except ApiError as refusal:
        error = refusal
    else:
        return body
    assert error.status == 400
    return None


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, min_size=1, max_size=4))
@example([{"role": "user", "content": "Hello", "tool_calls": [None]}])
@example([{"role": "system", "content": "Hello", "function_call": [None], "refusal": [], "audio": 1}])
def test_messages_are_refused_or_can_be_made_again_from_their_items(sent: list[dict[str, Any]]) -> None:
    body = accepted({"messages": sent}, CHAT)
    if body is None:
        return
    custom = custom_calls(body.messages)
    for message in body.messages:
        items = items_of(message, custom)
        for item in items:
            as_stored(checked_item(item))
        made_messages = messages_of(items)
        assert sum(each.count for each in made_messages) == len(items)
        plain = made_messages[0].message
        assert changed(plain, changes_between(plain, message)) == message
    for renderer in (TRANSCRIPT_CHAT, TRANSCRIPT_RESPONSES):
        msgspec.json.encode(render_transcript(renderer, model="m", messages=body.messages, parameters={}))


@settings(max_examples=100, deadline=None)
@given(parameters, objects, st.sampled_from([CHAT, RESPONSES]))
def test_parameters_are_refused_or_can_be_shown_and_rendered(
    sent: dict[str, Any], more: dict[str, Any], renderer: int
) -> None:
    body = accepted({**sent, **more, "messages": [{"role": "user", "content": "Hello"}]}, renderer)
    if body is None:
        return
    recorded = body.recorded_parameters()
    sends = TRANSCRIPT_RESPONSES if uses_responses_api(renderer) else TRANSCRIPT_CHAT
    msgspec.json.encode(effective_parameters(recorded, sends))
    msgspec.json.encode(render_transcript(sends, model="m", messages=body.messages, parameters=recorded))
    if body.conversation_id is not None:
        with suppress(ApiError):
            body.as_response_request(stored=True)
