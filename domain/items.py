"""The items of a conversation as the Responses API shapes them: what is accepted, and what is given back.

The list of types keeps growing upstream, so a type that is not known here is kept as it came and given back unchanged.
Shapes: `openai/types/conversations` and `openai/types/responses` of the official SDK.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

Item = dict[str, Any]

ROLES_IN = ("user", "assistant", "system", "developer")
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
    "file_search_call": "fs",
    "web_search_call": "ws",
    "image_generation_call": "ig",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "code_interpreter_call": "ci",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "mcp_call": "mcp",
}
OTHER_PREFIX = "item"

_TEXT_PARTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
_REQUIRED_STRINGS = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id",),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id",),
}
_REFERENCES = ("item_reference", "compaction_trigger")


class InvalidItem(ValueError):
    """An item that no conversation can hold. `param` is the path of what is wrong, inside the item."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def type_of(item: Mapping[str, Any]) -> str:
    """The item's type; a message may leave it out."""
    return str(item.get("type") or "message")


def prefix(item: Mapping[str, Any]) -> str:
    """The prefix of the id that is minted for this item."""
    return PREFIXES.get(type_of(item), OTHER_PREFIX)


def check(item: object) -> Item:
    """The item, when a conversation can hold it. Raises InvalidItem that names the field otherwise."""
    if not isinstance(item, dict):
        raise InvalidItem("", "An item is an object.")
    kind = item.get("type", "message" if "role" in item else None)
    if kind is None:
        raise InvalidItem("type", "An item needs a `type`, and a message at least a `role`.")
    if not isinstance(kind, str) or not 0 < len(kind) <= 64:
        raise InvalidItem("type", "An item's `type` is a string of 1 to 64 characters.")
    if kind in _REFERENCES:
        raise InvalidItem("type", f"Items of type {kind} can not be stored.")
    if kind == "message":
        _check_message(item)
    for name in _REQUIRED_STRINGS.get(kind, ()):
        if not isinstance(item.get(name), str):
            raise InvalidItem(name, f"An item of type {kind} needs `{name}`, a string.")
    if kind.endswith("_call_output") and kind in _REQUIRED_STRINGS and not isinstance(item.get("output"), str | list):
        raise InvalidItem("output", f"An item of type {kind} needs `output`, a string or a list of parts.")
    return item


def _check_message(item: Item) -> None:
    if item.get("role") not in ROLES_IN:
        raise InvalidItem("role", f"A message's `role` is one of {', '.join(ROLES_IN)}.")
    content = item.get("content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidItem("content", "A message's `content` is a string or a list of parts.")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidItem(f"content[{index}]", "A part of a message is an object with a `type`.")
        if part["type"] in _TEXT_PARTS and not isinstance(part.get("text"), str):
            raise InvalidItem(f"content[{index}].text", f"A part of type {part['type']} needs `text`, a string.")


def as_stored(item: Item) -> bytes:
    """The JSON text that an event keeps: the item as sent, without the client's `id`, which keys nothing here."""
    return msgspec.json.encode({name: value for name, value in item.items() if name != "id"})


def from_stored(stored: bytes) -> Item:
    """The item an event keeps."""
    item: Item = msgspec.json.decode(stored)
    return item


def as_output(item_id: str, stored: bytes) -> bytes:
    """The JSON text a client is given for a stored item."""
    return msgspec.json.encode(shaped(item_id, from_stored(stored)))


def shaped(item_id: str, item: Item) -> Item:
    """An item as a client is given it: with our id, a type, a status, and content in parts."""
    kind = type_of(item)
    if kind == "message":
        status = item.get("status") or "completed"
        return {"id": item_id, "type": kind, **item, "content": content_parts(item), "status": status}
    given: Item = {"id": item_id, "type": kind, **item}
    if kind in _REQUIRED_STRINGS and "status" not in item:
        given["status"] = "completed"
    return given


def as_given(item_id: str, item: Item) -> str:
    """`shaped` as JSON text. A message of a type, a role and a text, which a context has hundreds of, need not be taken apart for it."""
    content = item.get("content")
    if len(item) != 3 or item.get("type") != "message" or not isinstance(content, str):
        return msgspec.json.encode(shaped(item_id, item)).decode()
    text = msgspec.json.encode(content).decode()
    role = item["role"]
    part = (
        f'{{"type":"output_text","text":{text},"annotations":[]}}'
        if role == "assistant"
        else f'{{"type":"input_text","text":{text}}}'
    )
    return f'{{"id":"{item_id}","type":"message","role":"{role}","content":[{part}],"status":"completed"}}'


def content_parts(message: Item) -> list[Item]:
    """A message's content as parts; a plain string is one part, of the kind its role speaks in."""
    content = message["content"]
    if not isinstance(content, str):
        return [
            {**part, "annotations": part.get("annotations") or []} if part["type"] == "output_text" else part
            for part in content
        ]
    if message["role"] == "assistant":
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]


def text_of(item: Item) -> str:
    """All the text that a person or a model wrote into a message, part after part, a line between them."""
    if type_of(item) != "message":
        return ""
    return "\n".join(
        str(part.get("text") or part.get("refusal") or "") for part in content_parts(item) if isinstance(part, dict)
    )
