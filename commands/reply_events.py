"""The server-sent events of a reply that is one message, as the Responses API names and orders them. Pure.

Types: `openai/types/responses/response_*_event.py` of the official SDK. `sequence_number` is added as they are sent.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

StreamEvent = dict[str, Any]


def sse(event: StreamEvent, sequence: int) -> bytes:
    """An event as it is sent."""
    kind: str = event["type"]
    return (
        b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({**event, "sequence_number": sequence}) + b"\n\n"
    )


def opened(response: bytes) -> list[StreamEvent]:
    """The reply is under way; `response` is the JSON text of a Response in progress."""
    running = msgspec.Raw(response)
    return [{"type": "response.created", "response": running}, {"type": "response.in_progress", "response": running}]


def added(item_id: str) -> list[StreamEvent]:
    """A message begins, and its text."""
    empty = {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **_place(item_id), "part": part("")},
    ]


def delta(item_id: str, text: str) -> StreamEvent:
    """The text grows."""
    return {"type": "response.output_text.delta", **_place(item_id), "delta": text, "logprobs": []}


def done(item_id: str, text: str, status: str) -> list[StreamEvent]:
    """The text is whole, and so is the message."""
    item = {"id": item_id, **message(text, status)}
    return [
        {"type": "response.output_text.done", **_place(item_id), "text": text, "logprobs": []},
        {"type": "response.content_part.done", **_place(item_id), "part": part(text)},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]


def ended(status: str, response: bytes) -> StreamEvent:
    """The reply has ended: completed, incomplete or failed."""
    return {"type": f"response.{status}", "response": msgspec.Raw(response)}


def message(text: str, status: str) -> dict[str, Any]:
    """The message that a reply is, without its id."""
    return {"type": "message", "role": "assistant", "status": status, "content": [part(text)]}


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def pieces(text: str, lengths: Sequence[int]) -> Iterator[str]:
    """The text in the pieces it was streamed in, by their lengths in characters."""
    start = 0
    for length in lengths:
        yield text[start : start + length]
        start += length


def _place(item_id: str) -> dict[str, Any]:
    return {"item_id": item_id, "output_index": 0, "content_index": 0}
