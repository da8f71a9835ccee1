"""`/responses`: turns the events of an answer into stream parts.

Shapes: `openai/types/responses/response_*_event.py` of the official SDK.
"""

from typing import Any

import msgspec
from msgspec import Struct

from domain.events import Usage
from domain.items import Item, type_of
from replies.provider.failures import answer_too_long, incomplete_answer, invalid_answer, reported_failure
from replies.provider.json_text import clean, decode_json
from replies.provider.ordered_items import OrderedItems
from replies.provider.response_items import at_start, encoded_size, id_of, parts_and_fields, storable_item
from replies.provider.stream_parts import Finished, StreamPart, known_tier, token_count
from replies.stream_events import field_of, may_have

MAX_ITEMS_BYTES = 4 * 1024 * 1024
"""An image alone may take a megabyte or two."""

_DELTAS = {
    "response.output_text.delta": "output_text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.reasoning_text.delta": "reasoning_text",
    "response.reasoning_summary_text.delta": "summary_text",
}

_PART_ENDS = {
    "response.output_text.done": "output_text",
    "response.refusal.done": "refusal",
    "response.reasoning_text.done": "reasoning_text",
    "response.reasoning_summary_text.done": "summary_text",
}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_FINISH_REASONS = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
_CALLS = ("function_call", "custom_tool_call")


class _Event(Struct):
    """An event of any type. A field is checked where it is used."""

    type: str = ""
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    item: Any = None
    response: Any = None
    error: Any = None
    code: Any = None
    message: Any = None


_decoder = msgspec.json.Decoder(_Event)

_Key = str | int
"""An item's id, or its index. Below 0: only the final response has the item."""


class ResponsesAnswer:
    """An answer, read event by event.

    Some providers send no item ids, or a different id with each event. Then the index identifies the item.
    """

    def __init__(self) -> None:
        self._items = OrderedItems()
        self._started: dict[_Key, Item] = {}
        self._key_at_index: dict[int, _Key] = {}
        self._ended: set[_Key] = set()
        self._bytes = 0
        self._deltas = 0
        self._response: Item | None = None

    def parse(self, data: bytes) -> list[StreamPart]:
        """Raises ModelFailed, and ValueError for data that is not an event."""
        event = decode_json(_decoder, data)
        if event.delta:
            self._deltas += 1
        if (kind := _DELTAS.get(event.type)) is not None:
            self._add_text(kind, event)
        elif (kind := _PART_ENDS.get(event.type)) is not None:
            self._end_part(kind, event)
        elif event.type == "response.output_item.added" and event.item is not None:
            item = storable_item(event.item)
            key = id_of(event.item) or self._key(None, event.output_index)
            if event.output_index is not None:
                self._key_at_index[event.output_index] = key
            self._start(key, item)
        elif event.type == "response.output_item.done":
            item = storable_item(event.item)
            self._end(self._key(id_of(event.item), event.output_index), item)
        elif event.type in _ENDS:
            response = event.response if isinstance(event.response, dict) else {}
            self._response = {"status": event.type.removeprefix("response."), **response}
        elif event.type == "error":
            raise reported_failure(event.error or {"code": event.code, "message": event.message})
        return self._items.take_parts()

    @property
    def progress(self) -> object:
        """Changes with each start or end of an item, end of the answer, or non-empty delta of any type.

        Some deltas, such as the deltas of a web search's query, make no stream part.
        """
        return len(self._started), len(self._ended), self._deltas, self._response is not None

    @property
    def is_complete(self) -> bool:
        return self._response is not None

    def finish(self) -> list[StreamPart]:
        """Raises ModelFailed if the answer broke off or failed, or if its end is not valid."""
        if self._response is None:
            raise incomplete_answer()
        status = self._response.get("status")
        if status not in ("completed", "incomplete"):
            raise reported_failure(self._response.get("error"))
        output = self._response.get("output")
        self._add_unstreamed(output if isinstance(output, list) else [])
        for key in self._started.keys() - self._ended:
            self._items.end(key)
        usage = _usage(self._response.get("usage"))
        tier = known_tier(self._response.get("service_tier"))
        finished = Finished(self._finish_reason(self._response), usage, _model(self._response), tier)
        return [*self._items.take_parts(), finished]

    def _add_unstreamed(self, output: list[Any]) -> None:
        """Some providers do not stream all items or their ends."""
        started = list(self._started)
        for index, provider_item in enumerate(output):
            item_id = id_of(provider_item)
            if item_id in self._started:
                key: _Key = item_id
            else:
                key = started[index] if index < len(started) else -1 - index
            if key in self._ended:
                continue
            item = storable_item(provider_item)
            if key not in self._started or type_of(self._started[key]) == type_of(item):
                self._end(key, item)

    def _finish_reason(self, response: Item) -> str:
        if response.get("status") == "incomplete":
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            return _FINISH_REASONS.get(reason, "length") if isinstance(reason, str) else "length"
        return "tool_calls" if any(type_of(item) in _CALLS for item in self._started.values()) else "stop"

    def _key(self, item_id: Any, index: Any) -> _Key:
        """Without id and index: the item that started last."""
        if not isinstance(item_id, str | None) or not isinstance(index, int | None):
            raise invalid_answer()
        if item_id in self._started:
            return item_id
        if index is not None and (key := self._key_at_index.get(index)) is not None and key not in self._ended:
            return key
        if item_id:
            return item_id
        if index is not None:
            return index
        if self._started:
            return next(reversed(self._started))
        raise invalid_answer()

    def _start(self, key: _Key, item: Item) -> None:
        if key in self._started:
            return
        self._started[key] = at_start(item)
        self._items.start(key, self._started[key])

    def _add_text(self, kind: str, event: _Event) -> None:
        if kind == "summary_text" and not self._started:
            return  # the summary comes again in the complete item
        key = self._key(event.item_id, event.output_index)
        if not isinstance(event.delta, str) or key not in self._started or key in self._ended:
            raise invalid_answer()
        if may_have(self._started[key], kind):
            self._items.add_text(key, event.delta, _part_key(kind, event), kind)

    def _end_part(self, kind: str, event: _Event) -> None:
        """An event that fits no part is ignored, because the end of the item has all texts."""
        text = event.refusal if kind == "refusal" else event.text
        if not self._started or not isinstance(text, str):
            return
        key = self._key(event.item_id, event.output_index)
        if key in self._started and key not in self._ended and may_have(self._started[key], kind):
            self._items.end_part(key, _part_key(kind, event), kind, clean(text))

    def _end(self, key: _Key, item: Item) -> None:
        if key in self._ended:
            return
        self._start(key, item)
        self._ended.add(key)
        if type_of(self._started[key]) != type_of(item):
            raise invalid_answer()
        self._bytes += encoded_size(item)
        if self._bytes > MAX_ITEMS_BYTES:
            raise answer_too_long()
        parts, fields = parts_and_fields(item)
        self._items.end(key, fields, parts)


def _part_key(kind: str, event: _Event) -> tuple[str, int]:
    index = event.summary_index if kind == "summary_text" else event.content_index
    return field_of(kind), index if isinstance(index, int) else 0


def _model(response: Item) -> str | None:
    model = response.get("model")
    if model is not None and not isinstance(model, str):
        raise invalid_answer()
    return model and clean(model)


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=token_count(usage, "input_tokens"),
        output_tokens=token_count(usage, "output_tokens"),
        cached_tokens=token_count(usage, "input_tokens_details", "cached_tokens"),
        cache_write_tokens=token_count(usage, "input_tokens_details", "cache_write_tokens"),
        reasoning_tokens=token_count(usage, "output_tokens_details", "reasoning_tokens"),
    )
