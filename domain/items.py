"""The items of a conversation in the shapes of the Responses API.

Items of unknown types are accepted. Shapes: `openai/types/conversations` and `openai/types/responses` of the official
SDK.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from domain.content_references import for_clients

Item = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")
ID_PREFIXES = {
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
OTHER_ID_PREFIX = "item"

MAX_GIVEN_ID_LENGTH = 256

_TEXT_PARTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
_REQUIRED_STRINGS = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id",),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id",),
}
_NOT_IN_MESSAGES = {
    "tool_calls": "function_call",
    "function_call": "function_call",
    "tool_call_id": "function_call_output",
}
"""Fields of chat messages, each with the type of the item to send instead."""

CUT_OFF = "incomplete"
"""The status of an item that ended early."""

_NOT_STORABLE = ("item_reference", "compaction_trigger")

LISTED_FIELDS = ("created_at", "author", "model", "siblings")
"""The fields that lists add. No item of a type in ID_PREFIXES has such a field itself."""

MAX_PREVIEW_LENGTH = 80


class InvalidItem(ValueError):
    """`param`: the path of the wrong field inside the item."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def type_of(item: Mapping[str, Any]) -> str:
    return str(item.get("type") or "message")


def id_prefix(item: Mapping[str, Any]) -> str:
    return ID_PREFIXES.get(type_of(item), OTHER_ID_PREFIX)


def checked_item(item: object) -> Item:
    """Returns the item if it can be stored. Raises InvalidItem."""
    if not isinstance(item, dict):
        raise InvalidItem("", "An item must be an object.")
    item_type = item.get("type", "message" if "role" in item else None)
    if item_type is None:
        raise InvalidItem("type", "An item needs a `type`, or a `role` if it is a message.")
    if not isinstance(item_type, str) or not 0 < len(item_type) <= 64:
        raise InvalidItem("type", "An item's `type` must be a string of 1 to 64 characters.")
    if item_type in _NOT_STORABLE:
        raise InvalidItem("type", f"Items of type {item_type} cannot be stored.")
    if item_type == "message":
        _check_message(item)
    for name in _REQUIRED_STRINGS.get(item_type, ()):
        if not isinstance(item.get(name), str):
            raise InvalidItem(name, f"An item of type {item_type} needs `{name}`, a string.")
    if (
        item_type.endswith("_call_output")
        and item_type in _REQUIRED_STRINGS
        and not isinstance(item.get("output"), str | list)
    ):
        raise InvalidItem("output", f"An item of type {item_type} needs `output`, a string or a list of parts.")
    return item


def _check_message(item: Item) -> None:
    for name, instead in _NOT_IN_MESSAGES.items():
        if item.get(name):
            raise InvalidItem(name, f"A message has no `{name}`: send items of type {instead}.")
    if item.get("role") == "tool":
        raise InvalidItem("role", "The output of a tool is not a message: send an item of type function_call_output.")
    if item.get("role") not in ROLES:
        raise InvalidItem("role", f"A message's `role` must be one of {', '.join(ROLES)}.")
    content = item.get("content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidItem("content", "A message's `content` must be a string or a list of parts.")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidItem(f"content[{index}]", "A part of a message must be an object with a `type`.")
        if part["type"] in _TEXT_PARTS and not isinstance(part.get("text"), str):
            raise InvalidItem(f"content[{index}].text", f"A part of type {part['type']} needs `text`, a string.")


def without_listed_fields(item: Item) -> Item:
    """Removes the fields that a list has added. Lists always add `created_at` and `author`.

    So an item of an unknown type that lacks one of these did not come from a list.
    """
    if not item.keys() & set(LISTED_FIELDS):
        return item
    if type_of(item) not in ID_PREFIXES and not item.keys() >= {*LISTED_FIELDS[:2]}:
        return item
    return {name: value for name, value in item.items() if name not in LISTED_FIELDS}


def as_stored(item: Item) -> bytes:
    """The item as JSON text. The client's `id` stays if `given_id` accepts it."""
    if "id" in item and given_id(item) is None:
        item = {name: value for name, value in item.items() if name != "id"}
    return msgspec.json.encode(item)


def given_id(item: Mapping[str, Any]) -> str | None:
    """The client's id of the item. None if this id cannot be kept."""
    item_id = item.get("id")
    return item_id if isinstance(item_id, str) and 0 < len(item_id) <= MAX_GIVEN_ID_LENGTH else None


def from_stored(stored: bytes) -> Item:
    item: Item = msgspec.json.decode(stored)
    return item


def as_output(item_id: str, stored: bytes) -> bytes:
    """`output_item` of a stored item, as JSON text."""
    return msgspec.json.encode(output_item(item_id, from_stored(stored)))


def output_item(item_id: str, item: Item) -> Item:
    """An item for clients, with our id. A message's content becomes parts. A `file_id` names images and files."""
    item = for_clients(item)
    item_type = type_of(item)
    output: Item = {"id": "", "type": item_type, **item}
    output["id"] = item_id
    if item_type == "message":
        return output | {"content": content_parts(item), "status": item.get("status") or "completed"}
    if item_type in _REQUIRED_STRINGS and "status" not in item:
        output["status"] = "completed"
    return output


def is_usable(item: Item) -> bool:
    """Whether the item can be sent to a model again.

    True for a message with text or a refusal, and for an item of another type that was not cut off.
    """
    if type_of(item) == "message":
        return any(part.get("text") or part.get("refusal") for part in item.get("content") or ())
    return bool(item.get("status") != CUT_OFF)


def _plain_forms() -> list[Item]:
    typed: Item = {"type": "message"}
    strings: list[Item] = [{**kind, "role": role, "content": ""} for role in ROLES for kind in ({}, typed)]
    user = {"role": "user", "content": [{"type": "input_text", "text": ""}]}
    answer = {"status": "completed", "content": [{"type": "output_text", "text": "", "annotations": []}]}
    return [*strings, user, {**typed, **user}, {**typed, "role": "assistant", **answer}]


PLAIN_FORMS: tuple[Item, ...] = ({}, *_plain_forms())
"""The forms of plain messages, with an empty text. {} stands for all other items.

A context has thousands of plain messages. A text and the number of its form are faster than a dict.
"""


def around_text(message: Item) -> tuple[str, str]:
    """The JSON before and after the empty text."""
    before, after = msgspec.json.encode(message).decode().split('""')
    return before + '"', '"' + after


_AROUND_TEXT = [("", ""), *map(around_text, PLAIN_FORMS[1:])]
_FORM_NUMBERS = {msgspec.json.encode(form): number for number, form in enumerate(PLAIN_FORMS)}


def in_short(item: Item) -> tuple[str | Item, int]:
    """A plain message's text as JSON without quotes, and the number of its form. Any other item: itself and 0."""
    text: Any = item.get("content")
    without_text: Any = ""
    if isinstance(text, list) and len(text) == 1 and isinstance(text[0], dict):
        [part] = text
        text, without_text = part.get("text"), [{**part, "text": ""}]
    if not isinstance(text, str):
        return item, 0
    form = _FORM_NUMBERS.get(msgspec.json.encode({**item, "content": without_text}), 0)
    return (msgspec.json.encode(text).decode()[1:-1], form) if form else (item, 0)


def in_full(text: str, form: int) -> Item:
    """Reverses `in_short`."""
    before, after = _AROUND_TEXT[form]
    message: Item = msgspec.json.decode(before + text + after)
    return message


def is_answer(item: Item) -> bool:
    """Whether a model writes such items.

    True for an assistant's message, and for every other type except outputs and approval responses.
    """
    kind = type_of(item)
    if kind == "message":
        return bool(item["role"] == "assistant")
    return not kind.endswith(("_output", "_response"))


def without_content(item: Item) -> Item:
    """A deleted item, for an answer that must name it."""
    blank: Item = {"id": item["id"], "type": type_of(item)}
    if blank["type"] != "message":
        return blank
    return {**blank, "role": item["role"], "status": "completed", "content": []}


_EMPTIED = ("content", "name", "arguments", "input", "output")


def emptied(item: Item) -> Item:
    """A deleted item that can be rendered. The call id stays, so a call and its output still belong together."""
    kept = {name: item[name] for name in ("role", "call_id") if isinstance(item.get(name), str)}
    return {"type": type_of(item), **kept, **{name: "" for name in _EMPTIED if name in item}}


class InputText(Struct, frozen=True, gc=False, tag_field="type", tag="input_text"):
    text: str


class OutputText(Struct, frozen=True, gc=False, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[()] = ()


class OutputMessage(Struct, frozen=True, gc=False):
    id: str
    type: str
    role: str
    content: tuple[InputText | OutputText]
    status: str


def encodable_output_item(item_id: str, item: Item) -> OutputMessage | Item:
    """`output_item` for msgspec, faster for messages whose content is a string. A context has thousands of these."""
    content, role = item.get("content"), item.get("role")
    is_plain = len(item) == 2 or (len(item) == 3 and item.get("type") == "message")
    if not is_plain or role is None or not isinstance(content, str):
        return output_item(item_id, item)
    part = OutputText(content) if role == "assistant" else InputText(content)
    return OutputMessage(item_id, "message", role, (part,), "completed")


def content_parts(message: Item) -> list[Item]:
    """A string becomes one part. Each output_text has `annotations`."""
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
    """Texts and refusals of a message, joined by newlines."""
    if type_of(item) != "message":
        return ""
    return "\n".join(
        str(part.get("text") or part.get("refusal") or "") for part in content_parts(item) if isinstance(part, dict)
    )


def preview_of(item: Item) -> str:
    """The beginning of a message's text, of a function or custom tool call, or of a text output, on one line."""
    match type_of(item):
        case "message":
            text = text_of(item)
        case "function_call":
            text = f"{item['name']}({item['arguments']})"
        case "custom_tool_call":
            text = f"{item['name']}({item['input']})"
        case _:
            output = item.get("output")
            text = output if isinstance(output, str) else ""
    return " ".join(text[: 4 * MAX_PREVIEW_LENGTH].split())[:MAX_PREVIEW_LENGTH]
