"""Tools of Responses. A call without its output is not sent again, and an output without its call is refused."""

from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.commands.api_client import create_conversation, create_response, error_of, events_of, post_response
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER = {"model_window": 2_000}

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    "strict": False,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def calls(exchange: Exchange) -> None:
    """Streams a word and two calls, for the weather of two towns."""
    exchange.begin_stream()
    exchange.text_chunk("Looking")
    for index, town in enumerate(("Ulm", "Graz")):
        started = {"name": "weather", "arguments": ""}
        exchange.delta(tool_calls=[{"index": index, "id": f"call_{town}", "type": "function", "function": started}])
        for arguments in ('{"town":', f' "{town}"}}'):
            exchange.delta(tool_calls=[{"index": index, "function": {"arguments": arguments}}])
    exchange.text_chunk(finish_reason="tool_calls")
    exchange.end_stream()


def output(town: str, weather: str = "rain") -> dict[str, str]:
    return {"type": "function_call_output", "call_id": f"call_{town}", "output": weather}


async def test_calls_of_a_reply_are_sent_with_their_outputs(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(api)
    working, provider.script = provider.script, calls
    first = await create_response(
        api, "Weather?", conversation=conversation_id, tools=[WEATHER], tool_choice="required"
    )
    assert [item["type"] for item in first["output"]] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in first["output"][1:]] == ['{"town": "Ulm"}', '{"town": "Graz"}']
    assert first["status"] == "completed"
    assert first["tools"] == [WEATHER]
    sent = provider.requests[-1]
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert sent["tool_choice"] == "required"
    provider.script = working
    await create_response(api, [output("Graz", "sun"), output("Ulm")], conversation=conversation_id, tools=[WEATHER])
    messages = provider.requests[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_Ulm", "call_Graz"]
    outputs = {message["tool_call_id"]: message["content"] for message in messages[2:]}
    assert outputs == {"call_Ulm": "rain", "call_Graz": "sun"}
    assert log.topics(conversation_id).count("item.appended") == 7


async def test_a_stream_of_calls_has_the_sdks_types(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    provider.script = calls
    key = {"Idempotency-Key": "calls"}
    request = {"input": "Weather?", "tools": [WEATHER], "stream": True}
    first = events_of(await api.post("/v1/responses", json=request, headers=key))
    for event in first:
        EVENT.validate_python(event)
    arguments = [event["delta"] for event in first if event["type"] == "response.function_call_arguments.delta"]
    # Chunks of several calls may arrive mixed, so the text of the second call waits for the end of the first.
    assert arguments == ['{"town":', ' "Ulm"}', '{"town": "Graz"}']
    assert [event["output_index"] for event in first if event["type"] == "response.output_item.done"] == [0, 1, 2]
    assert events_of(await api.post("/v1/responses", json=request, headers=key)) == first


async def test_a_call_without_an_output_is_not_sent_again(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    working, provider.script = provider.script, calls
    first = await create_response(api, "Weather?", tools=[WEATHER])
    provider.script = working
    await create_response(api, "Never mind.", previous_response_id=first["id"])
    assert [message["role"] for message in provider.requests[-1]["messages"]] == ["user", "assistant", "user"]
    assert "tool_calls" not in provider.requests[-1]["messages"][1]
    requested = [event for event in log.events(first["conversation"]["id"]) if event.topic == "reply.requested"][-1]
    left_out = getattr(requested, "shown").left_out  # noqa: B009
    assert [(group.reason, group.count) for group in left_out] == [("orphaned_call", 2)]


async def test_an_output_without_a_call_is_refused_and_leaves_no_event(api: httpx.AsyncClient, log: Log) -> None:
    answer = await post_response(api, [output("Ulm")])
    assert error_of(answer) == (400, None, "input")
    assert "call_Ulm" in answer.json()["error"]["message"]
    assert log.count() == 0


async def test_reasoning_text_is_kept_and_not_sent_back(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    def thinks(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.delta(reasoning_content="Hm, ")
        exchange.delta(reasoning_content="yes.")
        exchange.text_chunk("Yes.")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    provider.script = thinks
    events = events_of(await post_response(api, "Is it?", stream=True))
    for event in events:
        EVENT.validate_python(event)
    first = events[-1]["response"]
    assert [item["type"] for item in first["output"]] == ["reasoning", "message"]
    assert first["output"][0]["content"][0]["text"] == "Hm, yes."
    await create_response(api, "Sure?", previous_response_id=first["id"])
    assert [message["content"] for message in provider.requests[-1]["messages"]] == ["Is it?", "Yes.", "Sure?"]


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{**WEATHER, "name": "no spaces"}]}, "invalid_value", "tools[0].name"),
        ({"tools": [{**WEATHER, "parameters": {"type": 7}}]}, "invalid_function_parameters", "tools[0].parameters"),
        ({"tools": [{"name": "weather"}]}, "invalid_value", "tools[0].type"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "invalid_value", "tool_choice.name"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "invalid_json_schema", "text.format.schema"),
        ({"include": ["everything"]}, "invalid_value", "include[0]"),
        ({"context_management": [{"type": "compaction", "compact_threshold": -1}]}, "invalid_value", "context_management[0].compact_threshold"),
        ({"model": "nobody-knows-it"}, "model_not_found", "model"),
        ({"input": [{"type": "computer_call", "call_id": "c"}]}, "unsupported_parameter", "input[0].type"),
    ],
)  # fmt: skip
async def test_an_invalid_or_unsupported_parameter_is_a_400_that_names_it(
    api: httpx.AsyncClient, log: Log, parameters: dict[str, Any], code: str, param: str
) -> None:
    answer = await api.post("/v1/responses", json={"input": "x", **parameters})
    assert error_of(answer) == (400, code, param)
    assert log.count() == 0
