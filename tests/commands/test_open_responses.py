"""What the Open Responses specification requires of each Response and of each event of a stream."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from infrastructure.settings import Settings
from tests.clients.scripted_assistant import assistant
from tests.commands.api_client import create_response, events_of, open_api, output_text, post_response
from tests.commands.complete_response import CompleteResponse
from tests.scripted_provider import ScriptedProvider

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ENDS = ("response.completed", "response.incomplete", "response.failed")
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HEART = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": HEART}]


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


CREATE: dict[str, dict[str, Any]] = {
    "a text": {"input": [message("user", "Say hello in exactly 3 words.")]},
    "a system message": {"input": [message("system", "You are a pirate."), message("user", "Say hello.")]},
    "several turns": {
        "input": [
            message("user", "My name is Ada."),
            message("assistant", "Hello Ada!"),
            message("user", "What is my name?"),
        ]
    },
    "an image": {"input": [message("user", IMAGE)]},
    "reasoning": {"input": "Think!", "reasoning": {"effort": "low"}},
    "a tool": {"input": "How is the weather?", "tools": [WEATHER]},
    "no store": {"input": "Say hello.", "store": False},
}


@pytest.fixture(params=["chat", "responses"])
async def api(
    settings: Settings, provider: ScriptedProvider, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """The command API, once with each of the provider's two APIs."""
    provider.script = assistant
    with_provider = {"openai_base_url": provider.url, "model_api": request.param, "model_window": 100_000}
    async with open_api(settings.model_copy(update=with_provider)) as client:
        yield client


async def test_a_response_has_every_field(api: httpx.AsyncClient) -> None:
    for name, body in CREATE.items():
        response = await create_response(api, body["input"], **without_input(body))
        CompleteResponse.model_validate(response)
        assert response["status"] == "completed", name
        assert response["output"], name


async def test_every_event_of_a_stream_has_an_official_shape(
    api: httpx.AsyncClient,
) -> None:
    for name, body in CREATE.items():
        events = events_of(await post_response(api, body["input"], **without_input(body), stream=True))
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events if event["type"] in ENDS] == [events[-1]["type"]], name
        for event in events:
            EVENT.validate_python(event)
            if "response" in event:
                CompleteResponse.model_validate(event["response"])


async def test_the_arguments_of_a_tool_call_are_streamed(
    api: httpx.AsyncClient,
) -> None:
    events = events_of(await post_response(api, "How is the weather?", tools=[WEATHER], stream=True))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1]["response"]
    [call] = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city": "Paris"}')
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    answered = await create_response(api, [output], previous_response_id=response["id"], tools=[WEATHER])
    assert output_text(answered) == "The tool says: sunny."
    CompleteResponse.model_validate(answered)


async def test_the_response_of_a_failed_reply_has_every_field(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    provider.script = lambda exchange: exchange.json(500, {"error": {"message": "down"}})
    events = events_of(await post_response(api, "hi", stream=True))
    [response] = [event["response"] for event in events if event["type"] == "response.failed"]
    CompleteResponse.model_validate(response)


async def test_the_output_of_a_compaction_can_be_the_input_of_a_response(api: httpx.AsyncClient) -> None:
    turns = [message("user", "My name is Ada."), message("assistant", "OK."), message("user", "Compress this.")]
    compacted = await api.post("/v1/responses/compact", json={"model": "scripted", "input": turns})
    assert compacted.status_code == 200, compacted.text
    new_input = [*compacted.json()["output"], message("user", "What is my name?")]
    response = await create_response(api, new_input, model="scripted", store=False, tools=[])
    CompleteResponse.model_validate(response)


def without_input(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "input"}
