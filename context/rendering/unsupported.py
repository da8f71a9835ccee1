"""Finds the first parameter or input item of a request that the provider's API or the model cannot take."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from context.rendering import uses_responses_api
from context.rendering.notes import NOT_EXPRESSIBLE, TOOL_OUTPUTS, item_reason, part_reason
from domain.items import Item, type_of

Refusal = tuple[str, str]
"""(path, error message). Paths: `tools[0].type`, `input[2].content[1]`."""

_TOOLS = ("function", "custom")
_FORMATS = ("text", "json_schema", "json_object")
_CHOICES = ("auto", "none", "required")
_NOT_IN_CHAT = ("prompt",)
_OUR_PARTS = {"image_url": "input_image", "image": "input_image", "file": "input_file", "document": "input_file"}

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
"""By parameter: the accepted options and their accepted values (None: every value).

Options for a summary of the reasoning are accepted but not sent, because they do not change the answer.
"""


def first_unsupported(
    renderer: int, parameters: Mapping[str, Any], input_items: Sequence[Item], missing: Collection[str] = ()
) -> Refusal | None:
    """The first refusal, if there is one.

    Reasoning that cannot be sent is left out, not refused. A call whose arguments are not JSON is not refused either,
    because a model wrote the arguments.
    """
    responses = uses_responses_api(renderer)
    in_parameters = iter(()) if responses else _in_chat(parameters)
    refused = next(in_parameters, None)
    return refused or next(_in_items(input_items, missing, responses=responses), None)


def _in_items(items: Sequence[Item], missing: Collection[str], *, responses: bool) -> Iterator[Refusal]:
    for index, item in enumerate(items):
        if (reason := item_reason(item, missing, responses=responses)) is not None:
            yield _item_refusal(index, item, reason)
        name, role = ("content", item.get("role")) if type_of(item) == "message" else ("output", "tool")
        parts = item.get(name)
        if not isinstance(parts, list) or (role == "tool" and type_of(item) not in TOOL_OUTPUTS):
            continue
        for part_index, part in enumerate(parts):
            reason = part_reason(str(role), part, missing, responses=responses)
            if reason is not None:
                yield f"input[{index}].{name}[{part_index}]", _part_message(part, reason)


def _in_chat(parameters: Mapping[str, Any]) -> Iterator[Refusal]:
    for name in _NOT_IN_CHAT:
        if parameters.get(name):
            yield name, f"This model provider's API has no parameter `{name}`."
    yield from _in_tools(parameters)
    yield from _in_format(parameters)
    yield from _in_options(parameters)


def _item_refusal(index: int, item: Item, reason: str) -> Refusal:
    if type_of(item) == "compaction":
        return (
            f"input[{index}].encrypted_content",
            "This compaction was not made by this store, or is damaged. It cannot be read.",
        )
    if reason != NOT_EXPRESSIBLE:
        return f"input[{index}].type", "This model cannot take items of this type."
    return f"input[{index}].type", "This model provider's API has no items of this type."


def _part_message(part: Any, reason: str) -> str:
    if reason != NOT_EXPRESSIBLE:
        return "This model cannot take a part of this type."
    kind = part.get("type") if isinstance(part, dict) else None
    use = f" Use {_OUR_PARTS[kind]}." if isinstance(kind, str) and kind in _OUR_PARTS else ""
    return f"This model provider's API cannot take this part here.{use}"


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
                yield f"{name}.{option}", f"This model provider's API cannot take this value of `{name}.{option}`."
