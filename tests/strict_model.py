"""A provider whose models refuse what they cannot take, and malformed requests."""

import json
import threading
from collections.abc import Iterator
from typing import Any

from tests.scripted_provider import Exchange

WORDS = {
    "image": "This model does not support image input.",
    "file": "Invalid request.",
    "audio": "Audio is not supported by this model.",
    "tools": "This model does not support tools.",
    "custom_tools": "Invalid value: 'custom'.",
    "other_items": "Input should match one of 2 forms.",
    "reasoning": "The encrypted content could not be verified.",
}
"""The messages for a missing ability. Some are vague."""

_PARTS = {"input_image": "image", "image_url": "image", "input_file": "file", "file": "file", "input_audio": "audio"}
_TEXTS = ("text", "input_text", "output_text", "refusal")
_ITEMS = {
    "message": None,
    "function_call": "tools",
    "function_call_output": "tools",
    "custom_tool_call": "custom_tools",
    "custom_tool_call_output": "custom_tools",
    "reasoning": "reasoning",
}


class StrictModels:
    """A script for the provider. `abilities`: what each model can take. `refused`: the model of each refused request."""

    def __init__(self, abilities: dict[str, frozenset[str]]) -> None:
        self.abilities = abilities
        self.refused: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        body = exchange.body
        needs = _chat_needs(body["messages"]) if "messages" in body else _responses_needs(body["input"])
        model = body["model"]
        for need in needs:
            if need not in self.abilities[model]:
                with self._lock:
                    self.refused.append(model)
                exchange.json(400, {"error": {"message": WORDS.get(need, "Malformed request.")}})
                return
        if "messages" in body:
            exchange.stream_text("Yes")
        else:
            text = {"type": "output_text", "text": "Yes", "annotations": []}
            exchange.stream_items({"type": "message", "id": "msg_1", "role": "assistant", "content": [text]})


def _chat_needs(messages: list[dict[str, Any]]) -> Iterator[str]:
    """The abilities that these messages need, or "malformed"."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls or not isinstance(message["content"], str):
                yield "malformed"
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            yield "malformed"
        calls = message.get("tool_calls", [])
        open_calls = [call["id"] for call in calls]
        for call in calls:
            yield "tools" if call["type"] == "function" else "custom_tools"
            if call["type"] == "function" and not _is_object(call["function"]["arguments"]):
                yield "malformed"
        yield from _content_needs(message["role"], message.get("content"))
    if open_calls:
        yield "malformed"


def _responses_needs(items: list[dict[str, Any]]) -> Iterator[str]:
    open_calls: list[tuple[str, str]] = []
    for item in items:
        kind = item["type"]
        need = _ITEMS.get(kind, "other_items")
        if need is not None:
            yield need
        if kind.endswith("_output"):
            call = kind.removesuffix("_output"), item["call_id"]
            if call not in open_calls:
                yield "malformed"
            open_calls.remove(call)
        elif "call_id" in item:
            open_calls.append((kind, item["call_id"]))
        if kind == "function_call" and not _is_object(item["arguments"]):
            yield "malformed"
        if kind == "message":
            yield from _content_needs(item["role"], item["content"])
        elif need in ("tools", "custom_tools") and "output" in item:
            yield from _content_needs("tool", item["output"])
    if open_calls:
        yield "malformed"


def _content_needs(role: str, content: Any) -> Iterator[str]:
    if isinstance(content, str | None):
        return
    for part in content:
        kind = part["type"] if isinstance(part, dict) else None
        if kind in _TEXTS:
            continue
        yield _PARTS.get(str(kind), "other_items")
        if role == "assistant":
            yield "malformed"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
