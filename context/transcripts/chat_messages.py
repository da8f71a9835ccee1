"""Messages of the Chat Completions API as items, and items as messages.

Pure.

An assistant's message becomes a message item, then its calls. A message with calls and without content becomes only the
calls. Fields that items lack, such as a message's `name`, are recorded as changes. Items of other types, such as
reasoning, are part of no message.

Shapes: `openai/types/chat/chat_completion_*_param.py` of the official SDK.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from msgspec import Struct

from domain.items import Item, content_parts, type_of

Json = dict[str, Any]

LEGACY_CALL_ID = "function_call_"
"""A message's `function_call`, the older form of a call, has no id.

The items of the call and of its output have this text and the function's name as `call_id`.
"""

_BREAKPOINT = "prompt_cache_breakpoint"
_CALLS = ("function_call", "custom_tool_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_TEXT_PARTS = ("text", "input_text", "output_text")


class MadeMessage(Struct, frozen=True):
    """A message, and the number of items that it stands for.

    Items that are part of no message count for the message after them. Such items at the end count for the last message.
    """

    message: Json
    count: int


def is_in_transcripts(item: Item) -> bool:
    kind = type_of(item)
    return kind == "message" or kind in _CALLS or kind in _OUTPUTS


def custom_calls(messages: Iterable[Json]) -> frozenset[str]:
    return frozenset(
        call["id"]
        for message in messages
        if message["role"] == "assistant"
        for call in message.get("tool_calls") or ()
        if call.get("type") == "custom"
    )


def items_of(message: Json, custom_calls: Collection[str] = frozenset()) -> list[Item]:
    """The items that a message becomes. `custom_calls`: the ids of all calls of custom tools in the transcript."""
    match message["role"]:
        case "assistant":
            content, calls = _assistant_content(message), _calls(message)
            return calls if calls and not content else [_message("assistant", content), *calls]
        case "tool":
            call_id = message["tool_call_id"]
            kind = "custom_tool_call_output" if call_id in custom_calls else "function_call_output"
            return [{"type": kind, "call_id": call_id, "output": _input(message["content"])}]
        case "function":
            call_id = LEGACY_CALL_ID + message["name"]
            return [{"type": "function_call_output", "call_id": call_id, "output": message.get("content") or ""}]
        case role:
            return [_message(role, _input(message["content"]))]


def messages_of(items: Sequence[Item]) -> list[MadeMessage]:
    """The messages that items become, in the form that most clients send.

    A field without a value is absent, and a single text is a string.
    """
    groups: list[tuple[list[Item], int]] = []
    count = 0
    for item in items:
        count += 1
        if not is_in_transcripts(item):
            continue
        if groups and type_of(item) in _CALLS and _takes_call(groups[-1][0], item):
            group, before = groups.pop()
            groups.append(([*group, item], before + count))
        else:
            groups.append(([item], count))
        count = 0
    if groups and count:
        group, before = groups.pop()
        groups.append((group, before + count))
    return [MadeMessage(_plain_message(group), count) for group, count in groups]


def answer_message(items: Iterable[Item]) -> Json:
    """A reply's answer as one message. `items`: all output items of the reply.

    Calls whose content was deleted are left out.
    """
    in_message = [item for item in items if is_in_transcripts(item) and (type_of(item) == "message" or "name" in item)]
    return _assistant_message(in_message or [_message("assistant", "")])


def one_message(items: Sequence[Item]) -> Json:
    """One message of all these items, also where `messages_of` makes several."""
    messages = messages_of(items)
    return messages[0].message if len(messages) == 1 else answer_message(items)


def _message(role: str, content: Any) -> Item:
    return {"type": "message", "role": role, "content": content}


def _input(content: Any) -> str | list[Item]:
    return content if isinstance(content, str) else [_input_part(part) for part in content]


def _input_part(part: Json) -> Item:
    match part["type"]:
        case "text":
            plain = {"type": "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            plain = {"type": "input_image", "image_url": image["url"], **_fields_with_value(image, "detail")}
        case "file":
            plain = {"type": "input_file", **_fields_with_value(part["file"], "file_data", "file_id", "filename")}
        case "input_audio":
            plain = {"type": "input_audio", "input_audio": _fields_with_value(part["input_audio"], "data", "format")}
        case _:
            return part
    return plain | _fields_with_value(part, _BREAKPOINT)


def _assistant_content(message: Json) -> str | list[Item]:
    content, refusal, audio = message.get("content") or "", message.get("refusal"), message.get("audio")
    if isinstance(content, str) and not refusal and not audio:
        return content
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    parts = [
        {"type": "output_text", "text": part["text"], **_fields_with_value(part, _BREAKPOINT)}
        if part["type"] == "text"
        else part
        for part in content
    ]
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if audio:
        parts.append({"type": "output_audio", **_fields_with_value(audio, "id")})
    return parts


def _calls(message: Json) -> list[Item]:
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    if legacy := message.get("function_call"):
        calls.append(
            {
                "type": "function_call",
                "call_id": LEGACY_CALL_ID + legacy["name"],
                **_fields_with_value(legacy, "name", "arguments"),
            }
        )
    return calls


def _call(call: Json) -> Item:
    if call.get("type") == "custom":
        return {
            "type": "custom_tool_call",
            "call_id": call["id"],
            **_fields_with_value(call["custom"], "name", "input"),
        }
    return {"type": "function_call", "call_id": call["id"], **_fields_with_value(call["function"], "name", "arguments")}


def _takes_call(group: Sequence[Item], call: Item) -> bool:
    first = group[0]
    is_assistants = type_of(first) in _CALLS or (type_of(first) == "message" and first["role"] == "assistant")
    return is_assistants and not is_legacy_call(group[-1]) and (len(group) == 1 or not is_legacy_call(call))


def _plain_message(group: Sequence[Item]) -> Json:
    first = group[0]
    if type_of(first) in _OUTPUTS:
        content = _content_of_parts(first["output"])
        if is_legacy_call(first):
            return {"role": "function", "name": first["call_id"].removeprefix(LEGACY_CALL_ID), "content": content}
        return {"role": "tool", "tool_call_id": first["call_id"], "content": content}
    if type_of(first) == "message" and first["role"] != "assistant":
        return {"role": first["role"], "content": _content_of_parts(first["content"])}
    return _assistant_message(group)


def _assistant_message(items: Sequence[Item]) -> Json:
    parts = [part for item in items if type_of(item) == "message" for part in content_parts(item)]
    plain: Json = {"role": "assistant"}
    text = "".join(part["text"] for part in parts if part["type"] in _TEXT_PARTS)
    refusal = "".join(str(part.get("refusal") or "") for part in parts if part["type"] == "refusal")
    audio = [part for part in parts if part["type"] == "output_audio"]
    calls = [item for item in items if type_of(item) in _CALLS]
    content = [_message_part(part) for part in parts if part["type"] not in ("refusal", "output_audio")]
    if any(part["type"] != "text" for part in content):
        plain["content"] = content
    elif text or not (refusal or audio or calls):
        plain["content"] = text
    if refusal:
        plain["refusal"] = refusal
    if audio:
        plain["audio"] = _fields_with_value(audio[0], "id")
    if calls and is_legacy_call(calls[0]):
        plain["function_call"] = _fields_with_value(calls[0], "name", "arguments")
    elif calls:
        plain["tool_calls"] = [_tool_call(call) for call in calls]
    return plain


def is_legacy_call(item: Item) -> bool:
    call_id = str(item.get("call_id"))
    return call_id == LEGACY_CALL_ID + item["name"] if "name" in item else call_id.startswith(LEGACY_CALL_ID)


def _tool_call(call: Item) -> Json:
    if type_of(call) == "custom_tool_call":
        return {"id": call["call_id"], "type": "custom", "custom": _fields_with_value(call, "name", "input")}
    return {"id": call["call_id"], "type": "function", "function": _fields_with_value(call, "name", "arguments")}


def _content_of_parts(content: Any) -> Any:
    if isinstance(content, str):
        return content
    parts = [_message_part(part) for part in content]
    is_one_text = len(parts) == 1 and isinstance(parts[0], dict) and parts[0].keys() == {"type", "text"}
    return parts[0]["text"] if is_one_text else parts


def _message_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        plain: Json = {"type": "text", "text": part["text"]}
    elif kind == "input_image" and isinstance(part.get("image_url"), str):
        plain = {"type": "image_url", "image_url": {"url": part["image_url"], **_fields_with_value(part, "detail")}}
    elif kind == "input_file" and ("file_data" in part or "file_id" in part):
        plain = {"type": "file", "file": _fields_with_value(part, "file_data", "file_id", "filename")}
    elif kind == "input_audio" and "input_audio" in part:
        plain = {"type": "input_audio", "input_audio": part["input_audio"]}
    else:
        return part
    return plain | _fields_with_value(part, _BREAKPOINT)


def _fields_with_value(fields: Json, *names: str) -> Json:
    return {name: fields[name] for name in names if fields.get(name) is not None}
