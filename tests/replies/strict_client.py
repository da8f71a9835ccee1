"""A client as strict as openai-node's `responses.stream()`. The deltas must add up to the items."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from replies.stream_events import StreamEvent

_TEXT_EVENTS = {
    "response.output_text": ("content", "output_text", "text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning_text": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary", "summary_text", "text"),
}
_PART_EVENTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
_CALL_EVENTS = {"response.function_call_arguments": "arguments", "response.custom_tool_call_input": "input"}


class StrictClient:
    """Raises AssertionError, KeyError or IndexError for an unexpected number, index or kind, or a text that differs from its deltas."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.complete: set[int] = set()
        self.open_parts: set[tuple[int, str, int]] = set()
        self.last: StreamEvent = {}

    def read(self, events: Iterable[StreamEvent]) -> "StrictClient":
        for number, event in enumerate(deepcopy(list(events))):
            assert event["sequence_number"] == number
            self.last = event
            name, _, step = event["type"].rpartition(".")
            if name in _TEXT_EVENTS:
                self._text(step, event, *_TEXT_EVENTS[name])
            elif name in _PART_EVENTS:
                self._part(step, event, _PART_EVENTS[name])
            elif name in _CALL_EVENTS:
                self._call(step, event, _CALL_EVENTS[name])
            elif name == "response.output_item":
                self._item(step, event)
        return self

    def _item(self, step: str, event: StreamEvent) -> None:
        index, item = event["output_index"], event["item"]
        if step == "added":
            assert index == len(self.items), "the index of the item is not the next one"
            self.items.append(dict(item))
            return
        assert index not in self.complete
        assert not self.open_parts, "the item is complete, but one of its parts is not"
        started = self.items[index]
        assert (started["id"], started["type"]) == (item["id"], item["type"])
        for field in ("content", "summary", "arguments", "input", "phase"):
            if field in started and started["type"] in ("message", "reasoning", "function_call", "custom_tool_call"):
                streamed = item.get(field)
                if field == "content" and started["type"] == "message":
                    streamed = [part for part in item[field] if part["type"] in ("output_text", "refusal")]
                    streamed = [{"annotations": [], **p} if p["type"] == "output_text" else p for p in streamed]
                assert started[field] == streamed, field
        self.items[index] = item
        self.complete.add(index)

    def _parts(self, event: StreamEvent, field: str) -> tuple[list[dict[str, Any]], int]:
        item = self.items[event["output_index"]]
        assert item["id"] == event["item_id"]
        assert event["output_index"] not in self.complete
        index_field = "content_index" if field == "content" else "summary_index"
        return item.setdefault(field, []), event[index_field]

    def _part(self, step: str, event: StreamEvent, field: str) -> None:
        parts, index = self._parts(event, field)
        key = (event["output_index"], field, index)
        if step == "added":
            assert index == len(parts), "the index of the part is not the next one"
            assert not self.open_parts
            parts.append(dict(event["part"]))
            self.open_parts.add(key)
        else:
            assert parts[index]["type"] == event["part"]["type"]
            parts[index] = event["part"]
            self.open_parts.remove(key)

    def _text(self, step: str, event: StreamEvent, field: str, kind: str, text_field: str) -> None:
        parts, index = self._parts(event, field)
        assert parts[index]["type"] == kind
        assert (event["output_index"], field, index) in self.open_parts
        if step == "delta":
            assert event["delta"]
            parts[index][text_field] += event["delta"]
        else:
            assert parts[index][text_field] == event[text_field]

    def _call(self, step: str, event: StreamEvent, field: str) -> None:
        item = self.items[event["output_index"]]
        assert item["id"] == event["item_id"]
        assert event["output_index"] not in self.complete
        if step == "delta":
            item[field] += event["delta"]
        else:
            assert item[field] == event[field]
