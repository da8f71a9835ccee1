"""Replaces what a model cannot take with short notes, for renderers 8 and 9.

Pure. Never change what this module returns, because a renderer's output must not change.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from context.rendering import renderer_2_chat, renderer_3_responses
from context.rendering.parts import summary_of, text_of_part
from domain.items import Item, type_of

IMAGE = "image"
FILE = "file"
AUDIO = "audio"
TOOLS = "tools"
CUSTOM_TOOLS = "custom_tools"
OTHER_ITEMS = "other_items"
"""Items other than messages, reasoning, compactions, and calls and outputs of functions and custom tools.

Also parts of unknown types.
"""

REASONING = "reasoning"
"""A reasoning item is left out without a note."""

NOTED_ABILITIES = frozenset((IMAGE, FILE, AUDIO, TOOLS, CUSTOM_TOOLS, OTHER_ITEMS, REASONING))
"""If a model lacks one of these abilities, the items and parts that need it are replaced."""

NOT_EXPRESSIBLE = "not_expressible"

INVALID_ARGUMENTS = "invalid_arguments"

_MEDIA = {"input_image": IMAGE, "computer_screenshot": IMAGE, "input_file": FILE, "input_audio": AUDIO}
_TEXT_PARTS = ("input_text", "output_text", "text")
_PLAIN_PARTS = ("output_text", "input_text")
_OTHER_TEXT_PARTS = ("summary_text", "reasoning_text", "refusal")
_DETAILS = ("low", "high", "auto", "original")
TOOL_CALLS = {"function_call": TOOLS, "custom_tool_call": CUSTOM_TOOLS}
TOOL_OUTPUTS = {"function_call_output": TOOLS, "custom_tool_call_output": CUSTOM_TOOLS}

_WITH_IMAGES = ("computer_call", "computer_call_output", "image_generation_call")
_NOT_A_JSON_OBJECT = '{"note":"The arguments of this call were not valid JSON."}'
_MAX_NAME_CHARACTERS = 100

_NAMES = {IMAGE: ("An image", "images"), FILE: ("A file", "files"), AUDIO: ("An audio recording", "audio")}


class Noted(Struct, frozen=True):
    """An item in a changed form.

    `reason`: `no_…` with the missing ability, NOT_EXPRESSIBLE, INVALID_ARGUMENTS or REASONING. None if
    nothing is missing. Events store the reasons, so the reasons must not change.
    """

    item: Item
    reason: str | None


def _is_plain(item: Item) -> bool:
    """Most items are messages with one text. Such messages are never replaced."""
    if item.get("type", "message") != "message":
        return False
    content = item["content"]
    if isinstance(content, str):
        return True
    return len(content) == 1 and content[0].get("type") in _PLAIN_PARTS and isinstance(content[0].get("text"), str)


def needs(item: Item, *, responses: bool) -> frozenset[str]:
    """The abilities that a model needs for this item."""
    if _is_plain(item):
        return frozenset()
    kind = type_of(item)
    if kind == "message":
        content = item["content"]
        return frozenset() if isinstance(content, str) else _needs_of_parts(item["role"], content, responses=responses)
    if (ability := TOOL_CALLS.get(kind)) is not None:
        return frozenset((ability,))
    if (ability := TOOL_OUTPUTS.get(kind)) is not None:
        parts = [] if isinstance(item["output"], str) else item["output"]
        return _needs_of_parts("tool", parts, responses=responses) | {ability}
    if not responses or kind == "compaction" or kind not in renderer_3_responses.SENT_TYPES:
        return frozenset()
    if kind == "reasoning":
        return frozenset((REASONING,))
    return frozenset((OTHER_ITEMS, IMAGE) if kind in _WITH_IMAGES else (OTHER_ITEMS,))


def noted(item: Item, missing: Collection[str], *, responses: bool) -> Noted | None:
    """The changed form in which the item is sent; None if it is sent unchanged."""
    if _is_plain(item):
        return None
    kind = type_of(item)
    if kind == "message":
        return _noted_message(item, missing, responses=responses)
    if kind in TOOL_CALLS:
        return _noted_call(item, kind, missing)
    if kind in TOOL_OUTPUTS:
        return _noted_output(item, kind, missing, responses=responses)
    if kind == "reasoning":
        return Noted({"type": kind, "summary": []}, REASONING) if responses and REASONING in missing else None
    if kind == "compaction":
        if summary_of(item) is not None:
            return None
        return Noted(
            _message("assistant", "[A summary that only another provider can read was here.]"), NOT_EXPRESSIBLE
        )
    reason = item_reason(item, missing, responses=responses)
    if reason is None:
        return None
    role = "user" if kind.endswith(("_output", "_response")) else "assistant"
    return Noted(_message(role, f"[An item of type {_short(kind)} was here. This model cannot take it.]"), reason)


def item_reason(item: Item, missing: Collection[str], *, responses: bool) -> str | None:
    """Why the item itself cannot be sent; None if it can. For its parts, see `part_reason`."""
    kind = type_of(item)
    if kind in ("message", "reasoning"):
        return None
    if kind == "compaction":
        return NOT_EXPRESSIBLE if summary_of(item) is None else None
    ability = TOOL_CALLS.get(kind) or TOOL_OUTPUTS.get(kind)
    if ability is not None:
        return _lacks(ability) if ability in missing else None
    if not responses or kind not in renderer_3_responses.SENT_TYPES:
        return NOT_EXPRESSIBLE
    lacking = [
        ability for ability in (OTHER_ITEMS, IMAGE) if ability in missing and ability in needs(item, responses=True)
    ]
    return _lacks(lacking[0]) if lacking else None


def part_reason(role: str, part: Any, missing: Collection[str], *, responses: bool) -> str | None:
    """Why a part cannot be sent; None if it can."""
    can_send = _can_send_in_responses if responses else _can_send_in_chat
    if not can_send(role, part):
        return NOT_EXPRESSIBLE
    ability = _ability(part)
    return _lacks(ability) if ability is not None and ability in missing else None


def _noted_message(item: Item, missing: Collection[str], *, responses: bool) -> Noted | None:
    if isinstance(item["content"], str):
        return None
    parts, reason = _noted_parts(item["role"], item["content"], missing, responses=responses)
    return None if parts == item["content"] else Noted({**item, "content": parts}, reason)


def _noted_call(item: Item, kind: str, missing: Collection[str]) -> Noted | None:
    if (ability := TOOL_CALLS[kind]) in missing:
        what, text = ("function", item["arguments"]) if kind == "function_call" else ("tool", item["input"])
        title = f"[Call {item['call_id']} of the {what} {item['name']}:]"
        return Noted(_message("assistant", f"{title}\n{text}"), _lacks(ability))
    if kind != "function_call" or _is_json_object(item["arguments"]):
        return None
    if not item["arguments"].strip():
        return Noted({**item, "arguments": "{}"}, None)
    return Noted({**item, "arguments": _NOT_A_JSON_OBJECT}, INVALID_ARGUMENTS)


def _noted_output(item: Item, kind: str, missing: Collection[str], *, responses: bool) -> Noted | None:
    output = item["output"]
    if (ability := TOOL_OUTPUTS[kind]) in missing:
        title = f"[Answer to call {item['call_id']}:]"
        if isinstance(output, str):
            return Noted(_message("user", f"{title}\n{output}"), _lacks(ability))
        parts, _ = _noted_parts("tool", output, missing, responses=responses)
        return Noted(_message("user", [{"type": "input_text", "text": title}, *parts]), _lacks(ability))
    if isinstance(output, str):
        return None
    parts, reason = _noted_parts("tool", output, missing, responses=responses)
    return None if parts == output else Noted({**item, "output": parts}, reason)


def _noted_parts(
    role: str, parts: Sequence[Any], missing: Collection[str], *, responses: bool
) -> tuple[list[Any], str | None]:
    sent: list[Any] = []
    first_reason: str | None = None
    for part in parts:
        reason = part_reason(role, part, missing, responses=responses)
        if reason is None:
            valid = _valid_media(part) if part.get("type") in _MEDIA else part
            sent.append(_in_api_form(role, valid) if responses else valid)
            continue
        first_reason = first_reason or reason
        sent.append({"type": "output_text" if role == "assistant" else "input_text", "text": _note(part, reason)})
    return sent, first_reason


def _note(part: Any, reason: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    ability = _MEDIA.get(kind) if isinstance(kind, str) else None
    if ability is None:
        what = f"A part of type {_short(kind)}" if isinstance(kind, str) else "A part without a type"
        return f"[{what} was here. This model cannot take it.]"
    what, plural = _NAMES[ability]
    filename = part.get("filename")
    if isinstance(filename, str) and filename:
        what = f"{what}, {_short(filename)},"
    why = f"This model cannot take {plural}." if reason == _lacks(ability) else "It cannot be sent to this model."
    return f"[{what} was here. {why}]"


def _valid_media(part: Item) -> Item:
    """The part without null fields, and without a filename or a detail that no API takes."""
    fields = {name: value for name, value in part.items() if value is not None}
    if not isinstance(fields.get("filename", ""), str):
        del fields["filename"]
    if fields.get("detail", "auto") not in _DETAILS:
        del fields["detail"]
    return fields


def _in_api_form(role: str, part: Item) -> Item:
    kind = part["type"]
    if kind in _OTHER_TEXT_PARTS and not (kind == "refusal" and role == "assistant"):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": text_of_part(part)}
    if kind in _TEXT_PARTS and role == "tool":
        return {**part, "type": "input_text"} if kind != "output_text" else {"type": "input_text", "text": part["text"]}
    if kind == "input_image" and part.get("detail") not in _DETAILS:
        return {**part, "detail": "auto"}
    return part


def _can_send_in_chat(role: str, part: Any) -> bool:
    return isinstance(part, dict) and renderer_2_chat.can_send_part(role, part)


def _can_send_in_responses(role: str, part: Any) -> bool:
    """True for unknown types, because the API may have new ones."""
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return False
    if kind in _TEXT_PARTS or kind in _OTHER_TEXT_PARTS:
        return text_of_part(part) is not None
    if role == "assistant" and kind in _MEDIA:
        return False
    match kind:
        case "input_image":
            return _has_one(part, "image_url", "file_id")
        case "input_file":
            return _has_one(part, "file_id", "file_data", "file_url")
        case "input_audio":
            return isinstance(part.get("input_audio"), dict)
    return True


def _has_one(part: Mapping[str, Any], *names: str) -> bool:
    values = [part[name] for name in names if part.get(name) is not None]
    return bool(values) and all(isinstance(value, str) for value in values)


def _needs_of_parts(role: str, parts: Sequence[Any], *, responses: bool) -> frozenset[str]:
    abilities = (_ability(part) for part in parts if part_reason(role, part, (), responses=responses) is None)
    return frozenset(ability for ability in abilities if ability is not None)


def _ability(part: Mapping[str, Any]) -> str | None:
    if (ability := _MEDIA.get(str(part.get("type")))) is not None:
        return ability
    return None if text_of_part(part) is not None else OTHER_ITEMS


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
        return False


def _message(role: str, content: str | list[Any]) -> Item:
    return {"type": "message", "role": role, "content": content}


def _lacks(ability: str) -> str:
    return f"no_{ability}"


def _short(name: str) -> str:
    return name[:_MAX_NAME_CHARACTERS]
