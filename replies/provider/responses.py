"""`/responses`: the events of an answer as pieces.

Shapes: `openai/types/responses/response_*_event.py` of the official SDK. Events of a message, of a function call's arguments
and of a reasoning's words are told as they come; an item of any other type is told as it begins and once it is whole.
"""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from domain.events import Usage
from domain.items import Item, check, type_of
from replies.provider.failures import broke_off, not_understood, told, too_long
from replies.provider.stream_parts import Finished, Piece
from replies.provider.usage import count_in
from replies.provider.whole_items import Turns

MAX_ITEMS_BYTES = 4 * 1024 * 1024
"""Bytes of JSON text of all of an answer's items. One that is an image may have a megabyte or two."""

_DELTAS = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.reasoning_text.delta",
    }
)
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_REASONS = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
_CALLS = ("function_call", "custom_tool_call")


class _Event(Struct):
    type: str
    item_id: str | None = None
    output_index: int | None = None
    delta: Any = None
    item: Any = None
    response: Any = None
    error: Any = None
    code: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class ResponsesAnswer:
    """One answer. Its items are known by the id the provider gives them, or where it gives none, or each time another, by their index."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._began: dict[str | int, Item] = {}
        self._places: dict[int, str | int] = {}
        self._grown: dict[str | int, int] = {}
        self._ended: set[str | int] = set()
        self._bytes = 0
        self._response: Item | None = None

    def take(self, data: bytes) -> list[Piece]:
        """The pieces of one event. Raises ModelFailed, and ValueError for what is no event."""
        event = _decode(data)
        if event.type in _DELTAS:
            self._grow(self._key(event.item_id, event.output_index), event.delta)
        elif event.type == "response.output_item.added":
            item = _an_item(event.item)
            key = _id_of(event.item) or self._key(None, event.output_index)
            if event.output_index is not None:
                self._places[event.output_index] = key
            self._begin(key, item)
        elif event.type == "response.output_item.done":
            item = _an_item(event.item)
            self._end(self._key(_id_of(event.item), event.output_index), item)
        elif event.type in _ENDS:
            response = event.response if isinstance(event.response, dict) else {}
            self._response = {"status": event.type.removeprefix("response."), **response}
        elif event.type == "error":
            raise told(event.error or {"code": event.code, "message": event.message})
        return self._turns.take()

    @property
    def whole(self) -> bool:
        """Whether nothing more can come."""
        return self._response is not None

    def end(self) -> list[Piece]:
        """The last pieces. Raises ModelFailed when the answer is not whole."""
        if self._response is None:
            raise broke_off()
        status = self._response.get("status")
        if status not in ("completed", "incomplete"):
            raise told(self._response.get("error"))
        output = self._response.get("output")
        self._take_what_was_not_streamed(output if isinstance(output, list) else [])
        for key in self._began.keys() - self._ended:
            self._turns.end(key)
        return [*self._turns.take(), Finished(self._reason(), _usage(self._response.get("usage")), self._model())]

    def _take_what_was_not_streamed(self, output: list[Any]) -> None:
        """Some stream nothing but the end, or not all items, or no end of one."""
        begun = list(self._began)
        for index, given in enumerate(output):
            known = _id_of(given)
            if known in self._began:
                key: str | int = known
            else:
                key = begun[index] if index < len(begun) else -1 - index
            if key in self._ended:
                continue
            item = _an_item(given)
            if key not in self._began or type_of(self._began[key]) == type_of(item):
                self._end(key, item)

    def _reason(self) -> str:
        assert self._response is not None
        if self._response.get("status") == "incomplete":
            details = self._response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            return _REASONS.get(reason, "length") if isinstance(reason, str) else "length"
        return "tool_calls" if any(type_of(item) in _CALLS for item in self._began.values()) else "stop"

    def _model(self) -> str | None:
        assert self._response is not None
        model = self._response.get("model")
        if model is not None and not isinstance(model, str):
            raise not_understood()
        return model

    def _key(self, item_id: str | None, index: int | None) -> str | int:
        if item_id in self._began:
            return item_id
        if index is not None and (place := self._places.get(index)) is not None and place not in self._ended:
            return place
        if item_id:
            return item_id
        if index is not None:
            return index
        if self._began:
            return next(reversed(self._began))
        raise not_understood()

    def _begin(self, key: str | int, item: Item) -> None:
        if key in self._began:
            return
        kind = type_of(item)
        match kind:
            case "message":
                began: Item = {"type": kind, "role": "assistant"}
                if isinstance(item.get("phase"), str):
                    began["phase"] = item["phase"]
            case "function_call":
                if not isinstance(item.get("name"), str):
                    raise not_understood()
                began = {
                    "type": kind,
                    "call_id": item.get("call_id") or f"call_{uuid.uuid4().hex}",
                    "name": item["name"],
                }
            case "reasoning":
                began = {"type": kind}
            case _:
                began = item
        self._began[key] = began
        self._grown[key] = 0
        self._turns.begin(key, began)

    def _grow(self, key: str | int, text: Any) -> None:
        if not isinstance(text, str) or key not in self._began or key in self._ended:
            raise not_understood()
        self._grown[key] += len(text.replace("\0", ""))
        self._turns.grow(key, text)

    def _end(self, key: str | int, item: Item) -> None:
        if key in self._ended:
            return
        self._begin(key, item)
        self._ended.add(key)
        kind = type_of(self._began[key])
        if kind != type_of(item):
            raise not_understood()
        self._bytes += len(_encoded(item))
        if self._bytes > MAX_ITEMS_BYTES:
            raise too_long()
        text, fields = _FINAL.get(kind, _final_other)(item)
        self._turns.grow(key, text[self._grown[key] :])  # a provider that streams no deltas of it
        self._turns.end(key, fields)


def _final_message(item: Item) -> tuple[str, Item]:
    """Its text; and its parts where they are more than one text alone: with annotations, or a refusal."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    if not all(isinstance(part, dict) and isinstance(_words(part), str) for part in parts):
        raise not_understood()
    text = "".join(map(_words, parts))
    plain = len(parts) <= 1 and all(part.get("type") == "output_text" and not part.get("annotations") for part in parts)
    fields: Item = {} if plain else {"content": parts}
    if isinstance(item.get("phase"), str):
        fields["phase"] = item["phase"]
    return text, fields


def _final_call(item: Item) -> tuple[str, Item]:
    arguments = item.get("arguments")
    if not isinstance(arguments, str):
        raise not_understood()
    return arguments, _beside(item, "arguments", "call_id", "name", "status")


def _final_reasoning(item: Item) -> tuple[str, Item]:
    """Its words; beside them the summary and the `encrypted_content`."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    unsaid = () if item.get("encrypted_content") else ("encrypted_content",)
    return text, _beside(item, "content", "status", *unsaid)


def _final_other(item: Item) -> tuple[str, Item]:
    return "", _beside(item)


_FINAL: dict[str, Callable[[Item], tuple[str, Item]]] = {
    "message": _final_message,
    "function_call": _final_call,
    "reasoning": _final_reasoning,
}


def _beside(item: Item, *names: str) -> Item:
    return {name: value for name, value in item.items() if value is not None and name not in ("type", *names)}


def _words(part: Item) -> Any:
    return part.get("refusal") if part.get("type") == "refusal" else part.get("text")


def _id_of(item: Any) -> str | None:
    item_id = item.get("id") if isinstance(item, dict) else None
    return item_id if isinstance(item_id, str) and item_id else None


def _an_item(given: Any) -> Item:
    """An item as it can be stored: without its id, and without NUL. Raises ModelFailed, or ValueError."""
    if not isinstance(given, dict):
        raise not_understood()
    item: Item = _clean({name: value for name, value in given.items() if name != "id"})
    if type_of(item) == "message":
        item["role"] = "assistant"
        item["content"] = item.get("content") or []
    elif type_of(item) == "function_call":
        call_id = item.get("call_id")
        item["call_id"] = call_id if isinstance(call_id, str) and call_id else f"call_{uuid.uuid4().hex}"
        item["arguments"] = item.get("arguments") or ""
    elif type_of(item) == "custom_tool_call":
        item["input"] = item.get("input") or ""
    _encoded(check(item))
    return item


def _encoded(item: Item) -> bytes:
    return msgspec.json.encode(item)


def _clean(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "")
        case dict():
            return {_clean(name): _clean(each) for name, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case _:
            return value


def _usage(given: Any) -> Usage | None:
    if not isinstance(given, dict):
        return None
    return Usage(
        input_tokens=count_in(given, "input_tokens"),
        output_tokens=count_in(given, "output_tokens"),
        cached_tokens=count_in(given, "input_tokens_details", "cached_tokens"),
        reasoning_tokens=count_in(given, "output_tokens_details", "reasoning_tokens"),
    )
