"""The server-sent events of a reply, as the Responses API names and orders them. Pure.

Types: `openai/types/responses/response_*_event.py` of the official SDK. An event's place in its stream is its `sequence_number`,
from 0, added as it is written down (`sse`). What the events of an item are depends on nothing but the item and the pieces it
grew by, so that a reply on record has the same events again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from domain.items import Item, type_of

StreamEvent = dict[str, Any]

GROWING = ("message", "function_call", "custom_tool_call", "reasoning")
"""The types of items that are told of while they grow. Of any other a stream tells when it is whole, as it is kept."""

TERMINAL = ("completed", "incomplete", "failed")
"""What a stream ends with: `response.` and one of these. A reply that was cancelled is told as `incomplete`: no event is named for it."""

_TERMINAL_HEADS = tuple(f"event: response.{kind}\n".encode() for kind in TERMINAL)


def sse(event: StreamEvent, sequence: int) -> bytes:
    """An event as it is sent."""
    kind: str = event["type"]
    return (
        b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({**event, "sequence_number": sequence}) + b"\n\n"
    )


def is_terminal(sent: bytes) -> bool:
    """Whether a stream ends with this event, as `sse` wrote it."""
    return sent.startswith(_TERMINAL_HEADS)


def read(sent: bytes) -> StreamEvent:
    """The event that `sse` wrote."""
    event: StreamEvent = msgspec.json.decode(sent[sent.index(b"\ndata: ") + 7 : -2])
    return event


def opened(response: bytes, queued: bytes | None) -> list[StreamEvent]:
    """The reply is under way; `response` is the JSON text of a Response in progress, `queued` that of one in the background before it."""
    running = msgspec.Raw(response)
    begun: list[StreamEvent] = [{"type": "response.created", "response": running}]
    if queued is not None:
        waiting = msgspec.Raw(queued)
        begun = [
            {"type": "response.created", "response": waiting},
            {"type": "response.queued", "response": waiting},
        ]
    return [*begun, {"type": "response.in_progress", "response": running}]


def added(item_id: str, index: int, item: Item) -> Iterator[StreamEvent]:
    """The output item `index` begins, without its text."""
    begun: Item = {"id": item_id, "type": type_of(item), "status": "in_progress"}
    match type_of(item):
        case "message":
            begun |= {"role": "assistant", "content": []}
        case "function_call":
            begun |= {"call_id": item["call_id"], "name": item["name"], "arguments": ""}
        case "custom_tool_call":
            begun |= {"call_id": item["call_id"], "name": item["name"], "input": ""}
        case "reasoning":
            begun |= {"summary": []}
        case _:
            begun = {**item, **begun}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    if type_of(item) == "message":
        yield {"type": "response.content_part.added", **_place(item_id, index), "part": part("")}


def delta(item_id: str, index: int, item: Item, text: str) -> StreamEvent:
    """The item's text grows."""
    match type_of(item):
        case "function_call":
            kind, place = "response.function_call_arguments.delta", {"item_id": item_id, "output_index": index}
        case "custom_tool_call":
            kind, place = "response.custom_tool_call_input.delta", {"item_id": item_id, "output_index": index}
        case "reasoning":
            kind, place = "response.reasoning_text.delta", _place(item_id, index)
        case _:
            return {
                "type": "response.output_text.delta",
                **_place(item_id, index),
                "delta": text,
                "logprobs": [],
            }
    return {"type": kind, **place, "delta": text}


def done(item_id: str, index: int, item: Item) -> Iterator[StreamEvent]:
    """The item is whole."""
    text = text_of_output(item)
    match type_of(item):
        case "message":
            place = _place(item_id, index)
            yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **place, "part": part(text)}
        case "function_call":
            context = {"item_id": item_id, "output_index": index, "name": item["name"], "arguments": text}
            yield {"type": "response.function_call_arguments.done", **context}
        case "custom_tool_call":
            context = {"item_id": item_id, "output_index": index, "input": text}
            yield {"type": "response.custom_tool_call_input.done", **context}
        case "reasoning" if text:
            yield {"type": "response.reasoning_text.done", **_place(item_id, index), "text": text}
        case _:
            pass
    yield {"type": "response.output_item.done", "output_index": index, "item": {"id": item_id, **item}}


def ended(status: str, response: bytes) -> StreamEvent:
    """The reply has ended; `status` is that of the Response."""
    kind = status if status in TERMINAL else "incomplete"
    return {"type": f"response.{kind}", "response": msgspec.Raw(response)}


def part(text: str) -> dict[str, Any]:
    """The one part of a message that a model wrote."""
    return {"type": "output_text", "text": text, "annotations": []}


def with_text(item: Item, text: str, status: str) -> Item:
    """An output item as it is kept: with its text, where a text is what it has."""
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
    """The text that an output item grew by; empty where it has none."""
    match type_of(item):
        case "message" | "reasoning":
            return "".join(str(each.get("text") or each.get("refusal") or "") for each in item.get("content") or ())
        case "function_call":
            return str(item.get("arguments", ""))
        case "custom_tool_call":
            return str(item.get("input", ""))
        case _:
            return ""


def pieces(text: str, lengths: Iterator[int]) -> Iterator[str]:
    """The text in the pieces it was streamed in: takes from `lengths` (in characters) what it is long."""
    start = 0
    while start < len(text):
        length = next(lengths, len(text) - start)
        yield text[start : start + length]
        start += length


def of_items(items: Sequence[tuple[str, Item]], lengths: Sequence[int]) -> Iterator[StreamEvent]:
    """The events of output items on record; one that was cut off (status `incomplete`) in a reply that did not complete has no end."""
    left = iter(lengths)
    for index, (item_id, item) in enumerate(items):
        yield from added(item_id, index, item)
        for piece in pieces(text_of_output(item), left):
            yield delta(item_id, index, item, piece)
        yield from done(item_id, index, item)


def _place(item_id: str, index: int) -> dict[str, Any]:
    return {"item_id": item_id, "output_index": index, "content_index": 0}
