"""Renderer 7: `/responses` for a Chat Completions request.

Each message becomes one or more items. The provider decides about incomplete messages, such as a call without an
output. Fields that this API does not have are not sent. Shapes: `openai/types/chat` and `openai/types/responses` of
the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering import renderer_5_responses
from context.rendering.parts import without_nulls
from domain.items import Item

Message = Mapping[str, Any]

_OLD_CALL_ID = "function_call_"
"""A `function_call`, the older form of a call, has no id. This text and the function's name are sent as the call's id.
"""


def render(model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> dict[str, Any]:
    body = renderer_5_responses.render(model, (), None, (), parameters)
    custom_calls: set[str] = set()
    for message in messages:
        body["input"] += _items(message, custom_calls)
        if message["role"] == "assistant":
            custom_calls |= {call["id"] for call in message.get("tool_calls") or () if call.get("type") == "custom"}
    if "tools" in body:
        body["tools"] = [_tool(tool) for tool in body["tools"]]
    return body


def _items(message: Message, custom_calls: set[str]) -> list[Item]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        call_id = message["tool_call_id"]
        kind = "custom_tool_call_output" if call_id in custom_calls else "function_call_output"
        return [{"type": kind, "call_id": call_id, "output": _content("user", content)}]
    if role == "function":
        return [{"type": "function_call_output", "call_id": _OLD_CALL_ID + message["name"], "output": content or ""}]
    if role != "assistant":
        return [{"type": "message", "role": role, "content": _content(role, content)}]
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    if old := message.get("function_call"):
        calls.append(_call({"id": _OLD_CALL_ID + old["name"], "function": old}))
    refusal = message.get("refusal") if role == "assistant" else None
    if refusal:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        content = [*parts, {"type": "refusal", "refusal": refusal}]
    if calls and not content:
        return calls
    return [{"type": "message", "role": role, "content": _content(role, content)}, *calls]


def _call(call: Mapping[str, Any]) -> Item:
    if call.get("type") == "custom":
        custom = call["custom"]
        return {"type": "custom_tool_call", "call_id": call["id"], "name": custom["name"], "input": custom["input"]}
    function = call["function"]
    arguments = function["arguments"]
    return {"type": "function_call", "call_id": call["id"], "name": function["name"], "arguments": arguments}


def _content(role: str, content: Any) -> str | list[Any]:
    return [_part(role, part) for part in content] if isinstance(content, list) else content or ""


def _part(role: str, part: Any) -> Any:
    match part.get("type"):
        case "text" if role == "assistant":
            rendered = {"type": "output_text", "text": part["text"], "annotations": []}
        case "text":
            rendered = {"type": "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            rendered = {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto"}
        case "file":
            names = ("file_id", "filename", "file_data")
            rendered = {"type": "input_file"} | without_nulls({name: part["file"].get(name) for name in names})
        case _:
            return part
    breakpoint_name = renderer_5_responses.BREAKPOINT
    return rendered | without_nulls({breakpoint_name: part.get(breakpoint_name)})


def _tool(tool: Any) -> Any:
    """A function without `strict` is strict in this API, and not strict in the Chat Completions API."""
    if tool["type"] != "function" or tool.get("strict") is not None:
        return tool
    return {**tool, "strict": False}
