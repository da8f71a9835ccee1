"""Makes and encodes the events of a reply's stream, in the order of the Responses API. Pure.

Types: `openai/types/responses/response_*_event.py` of the official SDK. The events of an item depend only on the item
and the lengths of its deltas, so the events can be made again from the log.

    response.output_item.added
        response.content_part.added              for each part of a message's or reasoning's content
        response.output_text.delta …             or refusal, reasoning_text
        response.output_text.done
        response.content_part.done
        response.reasoning_summary_part.added    for each part of a summary, then reasoning_summary_text.delta …
        …
        response.function_call_arguments.delta … or custom_tool_call_input.delta
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
"""A cancelled reply ends as `incomplete`, because the API has no event for a cancellation."""

_TERMINAL_HEADS = tuple(f"event: response.{kind}\n".encode() for kind in TERMINAL)


class _PartKind(Struct, frozen=True):
    """How parts of one kind are streamed.

    events        the beginning of the names of the events with the text
    text          the field of the part that has the text
    field         the field of the item that holds the parts; "" if the item has the text itself
    part_events   the beginning of the names of the events around the text; "" if there are none
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
"""Items of other types are sent when they are complete."""


class PartPosition(Struct, frozen=True):
    """A part of output item `output_index`. `index`: its place in the item's field; 0 if the item has the text itself."""

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
    """A part of an item, with its text.

    `index`: its place in the item's field. `part`: its JSON object, or the item if the item has the text itself.
    """

    kind: str
    index: int
    text: str
    part: Item


def encode(event: StreamEvent, sequence: int) -> bytes:
    kind: str = event["type"]
    data = msgspec.json.encode({**event, "sequence_number": sequence})
    return b"event: " + kind.encode() + b"\ndata: " + on_one_line(data) + b"\n\n"


def is_terminal(encoded: bytes) -> bool:
    return encoded.startswith(_TERMINAL_HEADS)


def data_of(encoded: bytes) -> bytes:
    return encoded[encoded.index(b"\ndata: ") + 7 : -2]


def decode(encoded: bytes) -> StreamEvent:
    event: StreamEvent = msgspec.json.decode(data_of(encoded))
    return event


def opened(in_progress: bytes | None, queued: bytes | None) -> list[StreamEvent]:
    """The first events. Each argument is the JSON text of a Response. At least one is given.

    `in_progress`: None while the reply waits. `queued`: given if the reply waits or has waited, or if the request had
    `background`.
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
    """An item of a type that is streamed has no text yet."""
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
    if events := _KINDS[position.kind].part_events:
        yield {"type": f"{events}.added", **position.fields(), "part": new_part(position.kind, "")}


def delta(position: PartPosition, text: str) -> StreamEvent:
    event = {"type": f"{_KINDS[position.kind].events}.delta", **position.fields(), "delta": text}
    if position.kind == "output_text":
        event["logprobs"] = []
    return event


def part_done(position: PartPosition, part: Item) -> Iterator[StreamEvent]:
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
    return {"type": "response.output_item.done", "output_index": index, "item": {"id": item_id, **item}}


def ended(status: str, response: bytes) -> StreamEvent:
    """`status`: the status of the Response."""
    kind = status if status in TERMINAL else "incomplete"
    return {"type": f"response.{kind}", "response": msgspec.Raw(response)}


def failed(error: ApiError) -> StreamEvent:
    """An `error` event. It is not one of the reply's own events."""
    event: StreamEvent = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return event if error.response_id is msgspec.UNSET else {**event, "response_id": error.response_id}


def is_streamed(item: Item) -> bool:
    return type_of(item) in _KINDS_OF_TYPES


def usual_kind(item: Item) -> str:
    """The item must be of a type that is streamed."""
    return _KINDS_OF_TYPES[type_of(item)][0]


def may_have(item: Item, kind: str) -> bool:
    """Whether an item of this type may have streamed parts of this kind."""
    return kind in _KINDS_OF_TYPES.get(type_of(item), ())


def field_of(kind: str) -> str:
    return _KINDS[kind].field


def text_field(kind: str) -> str:
    return _KINDS[kind].text


def new_part(kind: str, text: str) -> Item:
    part: Item = {"type": kind, _KINDS[kind].text: text}
    return {**part, "annotations": []} if kind == "output_text" else part


def parts_of(item: Item) -> list[ItemPart]:
    """The item's parts, in the order in which the parts are streamed."""
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
    return "".join(part.text for part in parts_of(item))


def with_parts(item: Item, parts: Sequence[tuple[str, str]], status: str) -> Item:
    """The item as it is stored. `parts`: (kind, text) of each part."""
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
    """Keeps the message's parts, with their annotations, if their texts are the streamed texts."""
    streamed = [part for part in parts_of(message) if part.text]
    if [(part.kind, part.text) for part in streamed] == list(parts):
        content = [part.part for part in streamed]
    else:
        content = [new_part(kind, text) for kind, text in parts]
    # Parts of other kinds come last, so that the streamed parts keep the indexes from their events.
    other = [part for part in message.get("content") or () if part.get("type") not in _KINDS_OF_TYPES["message"]]
    return [*(content or [new_part("output_text", "")]), *other]
