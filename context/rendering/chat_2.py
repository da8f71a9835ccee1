"""Renderer 2: `/chat/completions` with tools, images, files, summaries and forms of answers.

A call's output stands right after it, whatever came between them, as that API demands. A part that it has no word for
leaves a note in its place, so that the model knows that something was there.

Shapes: `openai/types/chat` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering.orphans import orphans, pairs
from context.rendering.parts import SUMMARY, summary_of, text_of_part, without_nulls
from domain.items import Item, content_parts, type_of

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_PASSED_ON = {
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
    """The body of the request: always streamed, with its usage."""
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
    """Which items are not sent, by index, and why."""
    # Text alone can always be said.
    others = [
        (index, item)
        for index, item in enumerate(items)
        if item.get("type") != "message" or not isinstance(item["content"], str)
    ]
    alone = orphans(items) if others else {}
    return {index: reason for index, item in others if (reason := _inexpressible(item) or alone.get(index)) is not None}


def expressible_part(role: str, part: Item) -> bool:
    """Whether a message of that role may have this part, but for a note in its place."""
    return text_of_part(part) is not None or (role == "user" and _part(part) is not None)


def _inexpressible(item: Item) -> str | None:
    kind = type_of(item)
    match kind:
        case "message":
            parts = item["content"]
            if not parts or isinstance(parts, str) or any(expressible_part(item["role"], each) for each in parts):
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
    answered = dict(pairs(items))
    owed: list[Item] = []
    for index, item in enumerate(items):
        if index in left_out or type_of(item) in OUTPUTS:
            continue
        if type_of(item) in CALLS and index in answered:
            _add_call(messages, item, begins=not owed)
            owed.append(items[answered[index]])
            if not _is_call_next(items, index, left_out):
                messages += map(_output, owed)
                owed = []
        elif type_of(item) == "message":
            messages.append({"role": _ROLES[item["role"]], "content": _content(item)})
        elif (summary := summary_of(item)) is not None:
            messages.append({"role": "system", "content": SUMMARY + summary})


def _is_call_next(items: Sequence[Item], index: int, left_out: Mapping[int, str]) -> bool:
    """Whether the next item that is sent is a call too: then the model made both at once."""
    following = (each for each in range(index + 1, len(items)) if each not in left_out)
    after = next(following, None)
    return after is not None and type_of(items[after]) in CALLS


def _add_call(messages: list[dict[str, Any]], item: Item, *, begins: bool) -> None:
    """What an assistant says before its calls is one message with them."""
    call: dict[str, Any]
    if type_of(item) == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
    else:
        call = {"id": item["call_id"], "type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
    if begins and not (messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]):
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _output(item: Item) -> dict[str, Any]:
    output = item["output"]
    if not isinstance(output, str):
        output = "\n".join(_text_or_note(part) for part in output)
    return {"role": "tool", "tool_call_id": item["call_id"], "content": output}


def _content(message: Item) -> str | list[dict[str, Any]]:
    """Text alone as a string, which every provider takes; a user's images and files as parts."""
    parts = content_parts(message)
    rendered = [_part(part) if message["role"] == "user" else None for part in parts]
    if not any(rendered):
        return "\n".join(map(_text_or_note, parts))
    return [part or {"type": "text", "text": _text_or_note(given)} for part, given in zip(rendered, parts, strict=True)]


def _text_or_note(part: Any) -> str:
    text = text_of_part(part)
    if text is not None:
        return text
    kind = part.get("type") if isinstance(part, dict) else None
    return f"[{kind if isinstance(kind, str) else 'part'} not shown]"


def _part(part: Item) -> dict[str, Any] | None:
    """An image or a file as this API has it; None for what it can not show."""
    if part.get("type") == "input_image" and isinstance(part.get("image_url"), str):
        detail = part.get("detail")
        image = {"url": part["image_url"], "detail": detail if isinstance(detail, str) else None}
        return {"type": "image_url", "image_url": without_nulls(image)}
    if part.get("type") == "input_file":
        names = ("file_id",) if isinstance(part.get("file_id"), str) else ("filename", "file_data")
        file = {name: part[name] for name in names if isinstance(part.get(name), str)}
        return {"type": "file", "file": file} if "file_id" in file or "file_data" in file else None
    return None


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    body = {ours: given[name] for name, ours in _PASSED_ON.items() if given.get(name) is not None}
    if tools := given.get("tools"):
        body["tools"] = [_nested(tool, ("name", "description", "parameters", "strict", "format")) for tool in tools]
        if given.get("tool_choice") is not None:
            body["tool_choice"] = _choice(given["tool_choice"])
        if given.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = given["parallel_tool_calls"]
    text = given.get("text") or {}
    form = text.get("format") or {}
    if form.get("type") == "json_schema":
        body["response_format"] = _nested(form, ("name", "description", "schema", "strict"))
    elif form.get("type") == "json_object":
        body["response_format"] = {"type": "json_object"}
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    if (effort := (given.get("reasoning") or {}).get("effort")) is not None:
        body["reasoning_effort"] = effort
    return body


def _nested(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`{type, …}` as `{type, type: {…}}`: a tool, a schema. A custom tool's grammar is nested alike."""
    kind = given["type"]
    inner = {name: given[name] for name in names if given.get(name) is not None}
    form = inner.get("format")
    if isinstance(form, dict) and form.get("type") == "grammar":
        inner["format"] = _nested(form, ("syntax", "definition"))
    return {"type": kind, kind: inner}


def _choice(given: Any) -> Any:
    """A tool choice: a word, `{type, name}`, or `{type: allowed_tools, mode, tools}`."""
    if isinstance(given, str):
        return given
    if given["type"] == "allowed_tools":
        tools = [_nested(tool, ("name",)) for tool in given["tools"]]
        return {"type": "allowed_tools", "allowed_tools": {"mode": given["mode"], "tools": tools}}
    return _nested(given, ("name",))
