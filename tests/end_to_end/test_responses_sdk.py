"""Replies with the official SDK and the local model."""

from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.servers import wait_until

MAX_TOKENS = 8
MANY_TOKENS = 200
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def assert_valid(event: Any) -> None:
    """The SDK itself does not validate."""
    EVENT.validate_python(event.to_dict())


def test_a_streamed_reply_has_the_official_events_in_order(client: OpenAI) -> None:
    events = list(client.responses.create(input="Say hello.", stream=True, max_output_tokens=MAX_TOKENS))
    assert list(dict.fromkeys(event.type for event in events))[:-1] == ORDER
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        assert_valid(event)
    retrieved = list(client.responses.retrieve(events[-1].response.id, stream=True))
    assert retrieved == events
    rest = list(client.responses.retrieve(events[-1].response.id, stream=True, starting_after=3))
    assert rest == events[4:]


def test_a_retrieved_reply_equals_the_answer_to_its_request(client: OpenAI) -> None:
    first = client.responses.create(input="My name is Ada.", instructions="Be brief.", max_output_tokens=MAX_TOKENS)
    second = client.responses.create(input="And you?", previous_response_id=first.id, max_output_tokens=MAX_TOKENS)
    for response in (first, second):
        Response.model_validate(response.to_dict(), strict=True)
        assert client.responses.retrieve(response.id) == response
    assert second.previous_response_id == first.id
    [item] = client.responses.input_items.list(second.id).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "And you?"}]
    assert client.responses.input_tokens.count(input="And you?", previous_response_id=first.id).input_tokens > 10
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_background_reply_starts_queued_and_cannot_be_cancelled_after_its_end(client: OpenAI) -> None:
    queued = client.responses.create(input="Say hello.", background=True, max_output_tokens=MAX_TOKENS)
    assert queued.status == "queued"
    assert queued.background

    def ended() -> bool:
        return client.responses.retrieve(queued.id).status in ("completed", "incomplete")

    wait_until(ended, 30, "the reply to end")
    done = client.responses.retrieve(queued.id)
    assert done.output_text
    events = list(client.responses.retrieve(queued.id, stream=True))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    for event in events:
        assert_valid(event)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a"):
        client.responses.cancel(queued.id)


def test_a_cancelled_reply_keeps_its_partial_text_and_its_conversation_continues(client: OpenAI) -> None:
    conversation = client.conversations.create()
    text = ""
    with client.responses.create(
        input="Tell me a long story.",
        conversation=conversation.id,
        background=True,
        stream=True,
        max_output_tokens=MANY_TOKENS,
    ) as stream:
        for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                text += event.delta
                break
    with pytest.raises(openai.ConflictError) as locked:
        client.responses.create(input="Stop!", conversation=conversation.id, max_output_tokens=MAX_TOKENS)
    assert locked.value.code == "conversation_locked"
    cancelled = client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith(text)
    assert client.responses.cancel(response_id) == cancelled
    assert not client.conversations.items.list(conversation.id).data
    assert client.responses.create(
        input="Say hello.", conversation=conversation.id, max_output_tokens=MAX_TOKENS
    ).output_text


def test_the_sdk_retries_until_a_running_reply_has_ended(client: OpenAI) -> None:
    conversation = client.conversations.create()
    running = client.responses.create(
        input="Say hello.", conversation=conversation.id, background=True, max_output_tokens=4
    )
    retrying = client.with_options(max_retries=8)
    second = retrying.responses.create(input="And again.", conversation=conversation.id, max_output_tokens=4)
    assert second.output_text
    assert client.responses.retrieve(running.id).output_text


def test_an_invalid_request_is_refused_with_the_official_code_and_parameter(client: OpenAI) -> None:
    done = client.responses.create(input="Hi.", max_output_tokens=4)
    invalid_tool = {"type": "function", "name": "f", "parameters": {"type": "objekt"}, "strict": False}
    output_without_call = {"type": "function_call_output", "call_id": "call_1", "output": "4"}
    for code, param, status, parameters in (
        (
            "mutually_exclusive_parameters",
            "previous_response_id",
            400,
            {"conversation": "conv_1", "previous_response_id": "resp_1"},
        ),
        ("previous_response_not_found", "previous_response_id", 400, {"previous_response_id": "resp_1"}),
        ("invalid_function_parameters", "tools[0].parameters", 400, {"tools": [invalid_tool]}),
        ("invalid_value", "max_output_tokens", 400, {"max_output_tokens": -1}),
        (None, "input", 400, {"input": [output_without_call]}),
        ("model_not_found", "model", 400, {"model": "no-such-model"}),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            client.responses.create(**{"input": "x", **parameters})  # type: ignore[call-overload]  # invalid on purpose
        assert (refused.value.status_code, refused.value.code, refused.value.param) == (status, code, param)
    with pytest.raises(openai.BadRequestError) as after_end:
        list(client.responses.retrieve(done.id, stream=True, starting_after=10_000))
    assert after_end.value.param == "starting_after"
    with pytest.raises(openai.BadRequestError) as negative:
        client.conversations.create(extra_body={"context_policy": {"budget": -5}})
    assert negative.value.param == "context_policy.budget"
