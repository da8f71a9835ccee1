"""Makes the events of a reply's stream, with the names and in the order of the Responses API. Pure.

Also encodes them as server-sent events. Types: `openai/types/responses/response_*_event.py` of the official SDK.
`encode` adds the `sequence_number`, which counts from 0. The events of an item depend only on the item and the lengths
of its deltas, so the same events can be made again from the log.

    response.output_item.added
        response.content_part.added              for each part of a message's or reasoning's content
        response.output_text.delta …             or refusal, reasoning_text
        response.output_text.done
        response.content_part.done
        response.reasoning_summary_part.added    for each part of a reasoning's summary, then reasoning_summary_text.delta …
        …
        response.function_call_arguments.delta … for a function call; custom_tool_call_input.delta for a call of a custom tool
    response.output_item.done
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from domain.items import Item, type_of
from infrastructure.http.errors import ApiError
from infrastructure.http.event_streams import on_one_line

StreamEvent = dict[str, Any]

TERMINAL = ("completed", "incomplete", "failed")
"""The type of a stream's last event is `response.` and one of these words. A cancelled reply ends as `incomplete`: the API has no event for it."""

_TERMINAL_HEADS = tuple(f"event: response.{kind}\n".encode() for kind in TERMINAL)


class _PartKind(Struct, frozen=True):
    """How parts of one kind are streamed.

    events        the beginning of the names of the events with the text
    text          the field of the part that has the text
    field         the field of the item that holds the parts; "" if the item has the text itself
    part_events   the beginning of the names of the events before and after the text; "" if there are none
    index         the field of an event that has the part's index
    """

    events: str
    text: str
    field: str = ""
    part_events: str = ""
    index: str = ""


_CONTENT = ("content", "response.content_part", "content_index")
_SUMMARY = ("summary", "response.reasoning_summary_part", "summary_index")
_KINDS = {
    "output_text": _PartKind("response.output_text", "text", *_CONTENT),
    "refusal": _PartKind("response.refusal", "refusal", *_CONTENT),
    "reasoning_text": _PartKind("response.reasoning_text", "text", *_CONTENT),
    "summary_text": _PartKind("response.reasoning_summary_text", "text", *_SUMMARY),
    "arguments": _PartKind("response.function_call_arguments", "arguments"),
    "input": _PartKind("response.custom_tool_call_input", "input"),
}
_KINDS_OF_TYPES = {
    "message": ("output_text", "refusal"),
    "reasoning": ("reasoning_text", "summary_text"),
    "function_call": ("arguments",),
    "custom_tool_call": ("input",),
}
"""The types of items that are streamed in deltas, and the kinds of their parts.

Items of other types are sent when they are complete.
"""


class PartPosition(Struct, frozen=True):
    """The part that an event is about. It is part `index` of the `content` or `summary` of output item `output_index`."""

    item_id: str
    output_index: int
    kind: str
    index: int

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"item_id": self.item_id, "output_index": self.output_index}
        if index := _KINDS[self.kind].index:
            fields[index] = self.index
        return fields


class ItemPart(Struct, frozen=True):
    """A part of an output item: its kind, its index in the item's field, its text, and the JSON object in the item."""

    kind: str
    index: int
    text: str
    part: Item


def encode(event: StreamEvent, sequence: int) -> bytes:
    """The event as a server-sent event."""
    kind: str = event["type"]
    data = msgspec.json.encode({**event, "sequence_number": sequence})
    return b"event: " + kind.encode() + b"\ndata: " + on_one_line(data) + b"\n\n"


def is_terminal(encoded: bytes) -> bool:
    """Whether a stream ends with this event."""
    return encoded.startswith(_TERMINAL_HEADS)


def data_of(encoded: bytes) -> bytes:
    """The JSON text of the event, with its `sequence_number`."""
    return encoded[encoded.index(b"\ndata: ") + 7 : -2]


def decode(encoded: bytes) -> StreamEvent:
    """The event that `encode` was given, with its `sequence_number`."""
    event: StreamEvent = msgspec.json.decode(data_of(encoded))
    return event


def opened(in_progress: bytes | None, queued: bytes | None) -> list[StreamEvent]:
    """The events that a stream starts with. At least one of the arguments is given.

    `in_progress`: the JSON text of the Response in progress; None while the reply waits for its turn. `queued`: the JSON text of the queued
    Response, if the reply waited, or if the request had `background`.
    """
    first = queued or in_progress
    assert first is not None
    events: list[StreamEvent] = [{"type": "response.created", "response": msgspec.Raw(first)}]
    if queued is not None:
        events.append({"type": "response.queued", "response": msgspec.Raw(queued)})
    if in_progress is not None:
        events.append({"type": "response.in_progress", "response": msgspec.Raw(in_progress)})
    return events


def added(item_id: str, index: int, item: Item) -> StreamEvent:
    """Says that the output item `index` has started. An item of a type that is streamed has no text yet."""
    started: Item = {"id": item_id, "type": type_of(item), "status": "in_progress"}
    match type_of(item):
        case "message":
            started |= {"role": "assistant", "content": []}
            if "phase" in item:
                started["phase"] = item["phase"]
        case "function_call":
            started |= {"call_id": item["call_id"], "name": item["name"], "arguments": ""}
        case "custom_tool_call":
            started |= {"call_id": item["call_id"], "name": item["name"], "input": ""}
        case "reasoning":
            started |= {"summary": []}
        case _:
            started = {**item, **started}
    return {"type": "response.output_item.added", "output_index": index, "item": started}


def part_added(position: PartPosition) -> Iterator[StreamEvent]:
    """Says that a part has started. It has no text yet."""
    if events := _KINDS[position.kind].part_events:
        yield {"type": f"{events}.added", **position.fields(), "part": new_part(position.kind, "")}


def delta(position: PartPosition, text: str) -> StreamEvent:
    """The event with the next text of a part."""
    event = {"type": f"{_KINDS[position.kind].events}.delta", **position.fields(), "delta": text}
    if position.kind == "output_text":
        event["logprobs"] = []
    return event


def part_done(position: PartPosition, part: Item) -> Iterator[StreamEvent]:
    """Says that a part is complete. `part`: as in ItemPart."""
    kind = _KINDS[position.kind]
    fields = position.fields()
    event = {"type": f"{kind.events}.done", **fields, kind.text: part[kind.text]}
    match position.kind:
        case "output_text":
            event["logprobs"] = []
            part = {**part, "annotations": part.get("annotations") or []}
        case "arguments":
            event["name"] = part["name"]
    yield event
    if kind.part_events:
        yield {"type": f"{kind.part_events}.done", **fields, "part": part}


def done(item_id: str, index: int, item: Item) -> StreamEvent:
    """Says that an item is complete."""
    return {"type": "response.output_item.done", "output_index": index, "item": {"id": item_id, **item}}


def ended(status: str, response: bytes) -> StreamEvent:
    """Says that the reply has ended. `status`: the status of the Response."""
    kind = status if status in TERMINAL else "incomplete"
    return {"type": f"response.{kind}", "response": msgspec.Raw(response)}


def failed(error: ApiError) -> StreamEvent:
    """Says that the stream cannot go on. This event is not one of the reply's own events."""
    event: StreamEvent = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return event if error.response_id is msgspec.UNSET else {**event, "response_id": error.response_id}


def is_streamed(item: Item) -> bool:
    """Whether the stream has events for the item before it is complete."""
    return type_of(item) in _KINDS_OF_TYPES


def usual_kind(item: Item) -> str:
    """The kind of the item's parts if no other kind is named. The item must be of a type that is streamed."""
    return _KINDS_OF_TYPES[type_of(item)][0]


def may_have(item: Item, kind: str) -> bool:
    """Whether items of this type have parts of this kind that are streamed."""
    return kind in _KINDS_OF_TYPES.get(type_of(item), ())


def field_of(kind: str) -> str:
    """The field of an item that holds the parts of this kind."""
    return _KINDS[kind].field


def text_field(kind: str) -> str:
    """The field of a part of this kind that has its text."""
    return _KINDS[kind].text


def new_part(kind: str, text: str) -> Item:
    """A part with this text."""
    part: Item = {"type": kind, _KINDS[kind].text: text}
    return {**part, "annotations": []} if kind == "output_text" else part


def parts_of(item: Item) -> list[ItemPart]:
    """The parts of an output item that are streamed, in the order in which they are streamed.

    The fields are in the same order as in the item, and the parts in the same order as in their field.
    """
    kinds = _KINDS_OF_TYPES.get(type_of(item), ())
    if kinds and not _KINDS[kinds[0]].field:
        return [ItemPart(kinds[0], 0, str(item.get(kinds[0]) or ""), item)]
    fields = {_KINDS[kind].field for kind in kinds}
    return [
        ItemPart(part["type"], index, str(part.get(_KINDS[part["type"]].text) or ""), part)
        for name, parts in item.items()
        if name in fields and isinstance(parts, list)
        for index, part in enumerate(parts)
        if isinstance(part, dict) and part.get("type") in kinds
    ]


def text_of_output(item: Item) -> str:
    """The text of all parts of an output item that are streamed."""
    return "".join(part.text for part in parts_of(item))


def with_parts(item: Item, parts: Sequence[tuple[str, str]], status: str) -> Item:
    """An output item as it is stored, with this status.

    `parts`: (kind, text) of each part. An item of a type without parts keeps its own status, unless `status` is `incomplete`.
    """
    match type_of(item):
        case "message":
            return {**item, "status": status, "content": _content(item, parts)}
        case "reasoning":
            # The fields are in the order in which their parts were streamed.
            fields: dict[str, list[Item]] = {}
            for kind, text in parts:
                fields.setdefault(_KINDS[kind].field, []).append(new_part(kind, text))
            fields.setdefault("summary", [])
            other = {name: value for name, value in item.items() if name not in ("content", "summary")}
            return {**other, **fields, "status": status}
        case "function_call" | "custom_tool_call":
            return {**item, usual_kind(item): "".join(text for _, text in parts), "status": status}
        case _:
            return {**item, "status": status if status == "incomplete" else item.get("status", status)}


def _content(message: Item, parts: Sequence[tuple[str, str]]) -> list[Item]:
    """The content of a message.

    If its own parts have the texts that were streamed, these parts are kept, with their annotations.
    """
    streamed = [part for part in parts_of(message) if part.text]
    if [(part.kind, part.text) for part in streamed] == list(parts):
        content = [part.part for part in streamed]
    else:
        content = [new_part(kind, text) for kind, text in parts]
    # Parts of other kinds are not streamed. They come last, so that the streamed parts keep the indexes from their events.
    other = [part for part in message.get("content") or () if part.get("type") not in _KINDS_OF_TYPES["message"]]
    return [*(content or [new_part("output_text", "")]), *other]
