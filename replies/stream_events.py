"""The server-sent events of a reply, as the Responses API names and orders them. Pure.

Types: `openai/types/responses/response_*_event.py` of the official SDK. `encode` adds the `sequence_number`, which counts from 0.
The events of an item depend only on the item and the lengths of its deltas: so the same events can be made again from the log.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from domain.items import Item, type_of

StreamEvent = dict[str, Any]

STREAMED_TYPES = ("message", "function_call", "custom_tool_call", "reasoning")
"""The types of items that are streamed in deltas. An item of any other type is sent when it is complete."""

TERMINAL = ("completed", "incomplete", "failed")
"""A stream's last event is `response.` and one of these. A cancelled reply ends as `incomplete`: the API has no event for it."""

_TERMINAL_HEADS = tuple(f"event: response.{kind}\n".encode() for kind in TERMINAL)


def encode(event: StreamEvent, sequence: int) -> bytes:
    """The event as a server-sent event."""
    kind: str = event["type"]
    return (
        b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({**event, "sequence_number": sequence}) + b"\n\n"
    )


def is_terminal(encoded: bytes) -> bool:
    """Whether a stream ends with this event."""
    return encoded.startswith(_TERMINAL_HEADS)


def decode(encoded: bytes) -> StreamEvent:
    """The event that `encode` was given, with its `sequence_number`."""
    event: StreamEvent = msgspec.json.decode(encoded[encoded.index(b"\ndata: ") + 7 : -2])
    return event


def opened(response: bytes, queued: bytes | None) -> list[StreamEvent]:
    """The reply has started. `response`: the JSON text of the Response in progress; `queued`: that of the queued one, with `background`."""
    in_progress = msgspec.Raw(response)
    created: list[StreamEvent] = [{"type": "response.created", "response": in_progress}]
    if queued is not None:
        queued_response = msgspec.Raw(queued)
        created = [
            {"type": "response.created", "response": queued_response},
            {"type": "response.queued", "response": queued_response},
        ]
    return [*created, {"type": "response.in_progress", "response": in_progress}]


def added(item_id: str, index: int, item: Item) -> Iterator[StreamEvent]:
    """The output item `index` has started; it has no text yet."""
    started: Item = {"id": item_id, "type": type_of(item), "status": "in_progress"}
    match type_of(item):
        case "message":
            started |= {"role": "assistant", "content": []}
        case "function_call":
            started |= {"call_id": item["call_id"], "name": item["name"], "arguments": ""}
        case "custom_tool_call":
            started |= {"call_id": item["call_id"], "name": item["name"], "input": ""}
        case "reasoning":
            started |= {"summary": []}
        case _:
            started = {**item, **started}
    yield {"type": "response.output_item.added", "output_index": index, "item": started}
    if type_of(item) == "message":
        yield {"type": "response.content_part.added", **_part_position(item_id, index), "part": part("")}


def delta(item_id: str, index: int, item: Item, text: str) -> StreamEvent:
    """The next part of the item's text."""
    match type_of(item):
        case "function_call":
            kind, position = "response.function_call_arguments.delta", {"item_id": item_id, "output_index": index}
        case "custom_tool_call":
            kind, position = "response.custom_tool_call_input.delta", {"item_id": item_id, "output_index": index}
        case "reasoning":
            kind, position = "response.reasoning_text.delta", _part_position(item_id, index)
        case _:
            return {
                "type": "response.output_text.delta",
                **_part_position(item_id, index),
                "delta": text,
                "logprobs": [],
            }
    return {"type": kind, **position, "delta": text}


def done(item_id: str, index: int, item: Item) -> Iterator[StreamEvent]:
    """The item is complete."""
    text = text_of_output(item)
    match type_of(item):
        case "message":
            position = _part_position(item_id, index)
            yield {"type": "response.output_text.done", **position, "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **position, "part": part(text)}
        case "function_call":
            fields = {"item_id": item_id, "output_index": index, "name": item["name"], "arguments": text}
            yield {"type": "response.function_call_arguments.done", **fields}
        case "custom_tool_call":
            fields = {"item_id": item_id, "output_index": index, "input": text}
            yield {"type": "response.custom_tool_call_input.done", **fields}
        case "reasoning" if text:
            yield {"type": "response.reasoning_text.done", **_part_position(item_id, index), "text": text}
        case _:
            pass
    yield {"type": "response.output_item.done", "output_index": index, "item": {"id": item_id, **item}}


def ended(status: str, response: bytes) -> StreamEvent:
    """The reply has ended; `status` is that of the Response."""
    kind = status if status in TERMINAL else "incomplete"
    return {"type": f"response.{kind}", "response": msgspec.Raw(response)}


def part(text: str) -> dict[str, Any]:
    """The one part of a model's message."""
    return {"type": "output_text", "text": text, "annotations": []}


def with_text(item: Item, text: str, status: str) -> Item:
    """An output item as it is stored: with its text, if its type has one, and its status."""
    match type_of(item):
        case "message":
            content = item.get("content") if text_of_output(item) == text else None
            return {**item, "status": status, "content": content or [part(text)]}
        case "function_call":
            return {**item, "arguments": text, "status": status}
        case "custom_tool_call":
            return {**item, "input": text, "status": status}
        case "reasoning" if text:
            return {"summary": [], **item, "content": [{"type": "reasoning_text", "text": text}], "status": status}
        case "reasoning":
            return {"summary": [], **item, "status": status}
        case _:
            return {**item, "status": status if status == "incomplete" else item.get("status", status)}


def text_of_output(item: Item) -> str:
    """The text of an output item that is streamed in deltas; empty for types without one."""
    match type_of(item):
        case "message" | "reasoning":
            parts = item.get("content") or ()
            return "".join(str(member.get("text") or member.get("refusal") or "") for member in parts)
        case "function_call":
            return str(item.get("arguments", ""))
        case "custom_tool_call":
            return str(item.get("input", ""))
        case _:
            return ""


def _part_position(item_id: str, index: int) -> dict[str, Any]:
    return {"item_id": item_id, "output_index": index, "content_index": 0}
