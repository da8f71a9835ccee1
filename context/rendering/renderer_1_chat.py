"""Renderer 1: `/chat/completions` with messages and function calls.

Recorded requests name this renderer, so what it renders must never change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from domain.items import Item, content_parts, text_of, type_of

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_UNCHANGED_PARAMETERS = ("temperature", "top_p")


def render(
    model: str, instructions: Sequence[str], items: Sequence[Item], parameters: Mapping[str, Any]
) -> dict[str, Any]:
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
    body |= {name: parameters[name] for name in _UNCHANGED_PARAMETERS if parameters.get(name) is not None}
    if parameters.get("max_output_tokens") is not None:
        body["max_tokens"] = parameters["max_output_tokens"]
    return body


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
    """A string if there are no images, because every provider accepts a string."""
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
