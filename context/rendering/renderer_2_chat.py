"""Renderer 2: `/chat/completions` with tools, images, files, summaries and answer formats.

Outputs follow directly after their calls, as the API demands. A note replaces a part that the API does not have.
Shapes: `openai/types/chat` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering.orphans import orphans, pairs
from context.rendering.parts import SUMMARY, summary_of, text_of_part, without_nulls
from domain.items import Item, content_parts, type_of

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_RENAMED_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
}
CALLS = ("function_call", "custom_tool_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output")


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": "\n\n".join(instructions)})
    if summary is not None:
        messages.append({"role": "system", "content": SUMMARY + summary})
    _add_items(messages, items)
    return {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_parameters(parameters),
    }


def unsendable(items: Sequence[Item]) -> dict[int, str]:
    # A message whose content is a string can always be sent.
    to_check = [
        (index, item)
        for index, item in enumerate(items)
        if item.get("type") != "message" or not isinstance(item["content"], str)
    ]
    orphaned = orphans(items) if to_check else {}
    return {
        index: reason
        for index, item in to_check
        if (reason := _unsendable_reason(item) or orphaned.get(index)) is not None
    }


def can_send_part(role: str, part: Item) -> bool:
    return text_of_part(part) is not None or (role == "user" and _part(part) is not None)


def _unsendable_reason(item: Item) -> str | None:
    kind = type_of(item)
    match kind:
        case "message":
            parts = item["content"]
            if not parts or isinstance(parts, str) or any(can_send_part(item["role"], part) for part in parts):
                return None
            return "not_expressible"
        case "compaction":
            return None if summary_of(item) is not None else "not_expressible"
        case "reasoning":
            return "reasoning"
        case _:
            return None if kind in CALLS or kind in OUTPUTS else "not_expressible"


def _add_items(messages: list[dict[str, Any]], items: Sequence[Item]) -> None:
    left_out = unsendable(items)
    output_index = dict(pairs(items))
    outputs: list[Item] = []
    for index, item in enumerate(items):
        if index in left_out or type_of(item) in OUTPUTS:
            continue
        if type_of(item) in CALLS and index in output_index:
            _add_call(messages, item, is_first=not outputs)
            outputs.append(items[output_index[index]])
            if not _is_call_next(items, index, left_out):
                messages += map(_output, outputs)
                outputs = []
        elif type_of(item) == "message":
            messages.append({"role": _ROLES[item["role"]], "content": _content(item)})
        elif (summary := summary_of(item)) is not None:
            messages.append({"role": "system", "content": SUMMARY + summary})


def _is_call_next(items: Sequence[Item], index: int, left_out: Mapping[int, str]) -> bool:
    next_sent = next((later for later in range(index + 1, len(items)) if later not in left_out), None)
    return next_sent is not None and type_of(items[next_sent]) in CALLS


def _add_call(messages: list[dict[str, Any]], item: Item, *, is_first: bool) -> None:
    call: dict[str, Any]
    if type_of(item) == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
    else:
        call = {"id": item["call_id"], "type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
    if is_first and not (messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]):
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _output(item: Item) -> dict[str, Any]:
    output = item["output"]
    if not isinstance(output, str):
        output = "\n".join(_text_or_note(part) for part in output)
    return {"role": "tool", "tool_call_id": item["call_id"], "content": output}


def _content(message: Item) -> str | list[dict[str, Any]]:
    """A string if there are no images or files, because every provider accepts a string."""
    parts = content_parts(message)
    media = [_part(part) if message["role"] == "user" else None for part in parts]
    if not any(media):
        return "\n".join(map(_text_or_note, parts))
    return [
        rendered or {"type": "text", "text": _text_or_note(part)} for rendered, part in zip(media, parts, strict=True)
    ]


def _text_or_note(part: Any) -> str:
    text = text_of_part(part)
    if text is not None:
        return text
    kind = part.get("type") if isinstance(part, dict) else None
    return f"[{kind if isinstance(kind, str) else 'part'} not shown]"


def _part(part: Item) -> dict[str, Any] | None:
    if part.get("type") == "input_image" and isinstance(part.get("image_url"), str):
        detail = part.get("detail")
        image = {"url": part["image_url"], "detail": detail if isinstance(detail, str) else None}
        return {"type": "image_url", "image_url": without_nulls(image)}
    if part.get("type") == "input_file":
        names = ("file_id",) if isinstance(part.get("file_id"), str) else ("filename", "file_data")
        file = {name: part[name] for name in names if isinstance(part.get(name), str)}
        return {"type": "file", "file": file} if "file_id" in file or "file_data" in file else None
    return None


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        chat_name: parameters[name]
        for name, chat_name in _RENAMED_PARAMETERS.items()
        if parameters.get(name) is not None
    }
    if tools := parameters.get("tools"):
        body["tools"] = [_nested(tool, ("name", "description", "parameters", "strict", "format")) for tool in tools]
        if parameters.get("tool_choice") is not None:
            body["tool_choice"] = _tool_choice(parameters["tool_choice"])
        if parameters.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = parameters["parallel_tool_calls"]
    text = parameters.get("text") or {}
    answer_format = text.get("format") or {}
    if answer_format.get("type") == "json_schema":
        body["response_format"] = _nested(answer_format, ("name", "description", "schema", "strict"))
    elif answer_format.get("type") == "json_object":
        body["response_format"] = {"type": "json_object"}
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    if (effort := (parameters.get("reasoning") or {}).get("effort")) is not None:
        body["reasoning_effort"] = effort
    return body


def _nested(flat_object: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`{type: T, …}` as `{type: T, T: {…}}`."""
    kind = flat_object["type"]
    inner = {name: flat_object[name] for name in names if flat_object.get(name) is not None}
    tool_format = inner.get("format")
    if isinstance(tool_format, dict) and tool_format.get("type") == "grammar":
        inner["format"] = _nested(tool_format, ("syntax", "definition"))
    return {"type": kind, kind: inner}


def _tool_choice(choice: Any) -> Any:
    """`choice`: a string, `{type, name}`, or `{type: allowed_tools, mode, tools}`."""
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        tools = [_nested(tool, ("name",)) for tool in choice["tools"]]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}}
    return _nested(choice, ("name",))
