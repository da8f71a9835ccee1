"""Finds the parts of a request that the provider's API does not support. The refusal of the request names the first one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from context.rendering import renderer_2_chat, renderer_3_responses, uses_responses_api
from domain.items import Item, content_parts, type_of

Refusal = tuple[str, str]
"""The parameter's path (`tools[0].type`, `input[2].content[1]`), and a message that says what is wrong, without content."""

_TOOLS = ("function", "custom")
_FORMATS = ("text", "json_schema", "json_object")
_CHOICES = ("auto", "none", "required")
_NOT_IN_CHAT = ("top_logprobs", "prompt")
_OUR_PARTS = {"image_url": "input_image", "image": "input_image", "file": "input_file", "document": "input_file"}
"""The types of parts in other APIs' messages, and their names here."""

_HONOURED_IN_CHAT: Mapping[str, Mapping[str, tuple[str, ...] | None]] = {
    "access_programs": {"cyber": ("standard",)},
    "image": {"context_compression": ("auto", "disabled")},
    "reasoning": {
        "effort": None,
        "summary": None,
        "generate_summary": None,
        "context": ("auto",),
        "mode": ("standard",),
    },
}
"""The options of these parameters that are accepted, each with its possible values (None: every value).

A summary of the reasoning is accepted, although it is not sent: it does not change the answer.
"""


def first_unsupported(renderer: int, parameters: Mapping[str, Any], input_items: Sequence[Item]) -> Refusal | None:
    """The first parameter or input item that `renderer` cannot send, or None. A reasoning item is never refused: it is left out of the request.

    Takes parameters of any shape. If it returns None, `render` accepts them.
    """
    refusals = _in_responses(input_items) if uses_responses_api(renderer) else _in_chat(parameters, input_items)
    return next(refusals, None)


def _in_responses(items: Sequence[Item]) -> Iterator[Refusal]:
    for index, reason in renderer_3_responses.unsendable(items).items():
        if reason == "not_expressible":
            yield _item_type(items, index)


def _in_chat(parameters: Mapping[str, Any], items: Sequence[Item]) -> Iterator[Refusal]:
    for name in _NOT_IN_CHAT:
        if parameters.get(name):
            yield name, f"This model provider's API has no parameter `{name}`."
    yield from _in_tools(parameters)
    yield from _in_format(parameters)
    yield from _in_options(parameters)
    left_out = renderer_2_chat.unsendable(items)
    for index, item in enumerate(items):
        if type_of(item) == "message":
            yield from _in_parts(f"input[{index}].content", item["role"], content_parts(item))
        elif type_of(item) in renderer_2_chat.OUTPUTS and isinstance(item["output"], list):
            yield from _in_parts(f"input[{index}].output", "tool", item["output"])
        elif left_out.get(index) == "not_expressible":
            yield _item_type(items, index)


def _item_type(items: Sequence[Item], index: int) -> Refusal:
    if type_of(items[index]) == "compaction":
        return f"input[{index}].encrypted_content", "This compaction was made by another provider and cannot be read."
    return f"input[{index}].type", "This model provider's API has no items of this type."


def _in_parts(path: str, role: str, parts: Sequence[Any]) -> Iterator[Refusal]:
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or not renderer_2_chat.can_send_part(role, part):
            kind = part.get("type") if isinstance(part, dict) else None
            use = f" Use {_OUR_PARTS[kind]}." if isinstance(kind, str) and kind in _OUR_PARTS else ""
            yield f"{path}[{index}]", f"This model provider's API cannot take a part of this type here.{use}"


def _in_tools(parameters: Mapping[str, Any]) -> Iterator[Refusal]:
    tools = parameters.get("tools")
    if tools is not None and not isinstance(tools, list):
        yield "tools", "`tools` must be a list."
        return
    for index, tool in enumerate(tools or []):
        yield from _in_tool(f"tools[{index}]", tool)
    choice = parameters.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("tools")
        if choice.get("mode") not in ("auto", "required") or not isinstance(allowed, list):
            yield (
                "tool_choice",
                "A choice of type allowed_tools needs a `mode`, auto or required, and a list of `tools`.",
            )
            return
        for index, tool in enumerate(allowed):
            yield from _in_tool(f"tool_choice.tools[{index}]", tool)
    elif isinstance(choice, dict):
        yield from _in_tool("tool_choice", choice)
    elif choice is not None and choice not in _CHOICES:
        yield "tool_choice", "`tool_choice` must be auto, none, required, or an object."


def _in_tool(path: str, tool: Any) -> Iterator[Refusal]:
    """A tool, or a reference to one."""
    if not isinstance(tool, dict):
        yield path, "A tool must be an object."
    elif tool.get("type") not in _TOOLS:
        yield f"{path}.type", "This model provider's API has only tools of type function and custom."
    elif not isinstance(tool.get("name"), str):
        yield f"{path}.name", "A tool needs a `name`, a string."


def _in_format(parameters: Mapping[str, Any]) -> Iterator[Refusal]:
    if not isinstance(parameters.get("text"), dict | None):
        yield "text", "`text` must be an object."
        return
    answer_format = (parameters.get("text") or {}).get("format")
    is_known = isinstance(answer_format, dict) and answer_format.get("type") in _FORMATS
    if answer_format is not None and not is_known:
        yield "text.format.type", "This model provider's API has only the formats text, json_schema and json_object."


def _in_options(parameters: Mapping[str, Any]) -> Iterator[Refusal]:
    for name, honoured in _HONOURED_IN_CHAT.items():
        options = parameters.get(name)
        if not isinstance(options, dict | None):
            yield name, f"`{name}` must be an object."
            continue
        for option, value in (options or {}).items():
            values = honoured.get(option, ())
            if value is not None and values is not None and value not in values:
                yield f"{name}.{option}", f"This model provider's API has no `{name}.{option}` of this value."
