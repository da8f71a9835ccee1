"""A conversation as a provider is sent it. Each renderer has a version that is on record, and never changes again.

The shape is that of `/chat/completions`; what it can not express (reasoning, calls of built-in tools) is not sent.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from domain.items import Item, content_parts, text_of, type_of

RENDERER = 1
"""The version of `render_chat`."""

PER_MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and the marks around it."""

PER_IMAGE_TOKENS = 1_105
"""What an image is counted as: OpenAI's figure for one of 1024 x 1024 pixels in high detail, 765, and some room."""

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_PASSED_ON = ("temperature", "top_p")


def render_chat(
    model: str, instructions: Sequence[str], items: Sequence[Item], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of the request: always streamed, with its usage."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": "\n\n".join(instructions)})
    for item in items:
        _add(messages, item)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {name: parameters[name] for name in _PASSED_ON if parameters.get(name) is not None}
    if parameters.get("max_output_tokens") is not None:
        body["max_tokens"] = parameters["max_output_tokens"]
    return body


def request_sha256(body: Mapping[str, Any]) -> bytes:
    """The SHA-256 of a body, written as JSON without spaces and its names in order."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()


def counted_text(item: Item) -> str:
    """All the text of an item that is sent, for counting."""
    match type_of(item):
        case "message":
            return text_of(item)
        case "function_call":
            return f"{item['name']}\n{item['arguments']}"
        case "function_call_output":
            return _output_text(item)
        case _:
            return ""


def fixed_tokens(item: Item) -> int:
    """What an item costs beside its text."""
    if not is_sent(item):
        return 0
    images = 0
    if type_of(item) == "message":
        images = sum(part.get("type") == "input_image" for part in content_parts(item))
    return PER_MESSAGE_TOKENS + images * PER_IMAGE_TOKENS


def is_sent(item: Item) -> bool:
    """Whether this renderer can express the item."""
    return type_of(item) in ("message", "function_call", "function_call_output")


def _add(messages: list[dict[str, Any]], item: Item) -> None:
    match type_of(item):
        case "message":
            messages.append({"role": _ROLES[item["role"]], "content": _content(item)})
        case "function_call":
            call = {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            }
            if messages and "tool_calls" in messages[-1]:
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": _output_text(item)})
        case _:
            pass


def _content(message: Item) -> str | list[dict[str, Any]]:
    """Text alone as a string, which every provider takes; with images as parts."""
    parts = content_parts(message)
    if not any(part.get("type") == "input_image" for part in parts):
        return text_of(message)
    rendered: list[dict[str, Any]] = []
    for part in parts:
        if part.get("type") == "input_image" and isinstance(part.get("image_url"), str):
            rendered.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
        elif isinstance(part.get("text"), str):
            rendered.append({"type": "text", "text": part["text"]})
    return rendered


def _output_text(item: Item) -> str:
    output = item["output"]
    if isinstance(output, str):
        return output
    return "\n".join(str(part.get("text") or "") for part in output if isinstance(part, dict))
