"""Renderer 3: `/responses`.

Items are sent without their ids. The provider stores nothing (`store` is false), so reasoning is sent as
`encrypted_content`. Shapes: `openai/types/responses` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering.orphans import non_messages, orphans
from context.rendering.parts import SUMMARY, summary_of, without_nulls
from domain.items import Item, type_of

_UNCHANGED_PARAMETERS = (
    "temperature",
    "top_p",
    "max_output_tokens",
    "max_tool_calls",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "top_logprobs",
    "include",
    "prompt",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "user",
)
SENT_TYPES = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "compaction",
        "file_search_call",
        "web_search_call",
        "image_generation_call",
        "computer_call",
        "computer_call_output",
        "code_interpreter_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "configuration_update",
        "program",
        "program_output",
    }
)
_NO_STATUS = frozenset({"reasoning", "custom_tool_call", "custom_tool_call_output"})
"""Types of items that the API accepts only without a `status`."""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    left_out = unsendable(items)
    sent = [_item(item) for index, item in enumerate(items) if index not in left_out]
    if summary is not None:
        sent.insert(0, _system(summary))
    body: dict[str, Any] = {"model": model, "input": sent, "stream": True, "store": False}
    if instructions:
        body["instructions"] = "\n\n".join(instructions)
    body |= {name: parameters[name] for name in _UNCHANGED_PARAMETERS if parameters.get(name) is not None}
    if not body.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
    return body


def unsendable(items: Sequence[Item]) -> dict[int, str]:
    orphaned = orphans(items)
    return {
        index: reason
        for index, item in non_messages(items)
        if (reason := _unsendable_reason(item) or orphaned.get(index)) is not None
    }


def _unsendable_reason(item: Item) -> str | None:
    kind = type_of(item)
    if kind == "reasoning":
        encrypted = item.get("encrypted_content")
        return None if isinstance(encrypted, str) and encrypted else "reasoning"
    if kind not in SENT_TYPES or (kind == "compaction" and summary_of(item) is None):
        return "not_expressible"
    return None


def _item(item: Item) -> Item:
    kind = type_of(item)
    if (summary := summary_of(item)) is not None:
        return _system(summary)
    left_out = ("id", "status") if kind in _NO_STATUS else ("id",)
    sent = {"type": kind, **{name: value for name, value in item.items() if name not in left_out}}
    if kind == "message":
        if isinstance(item["content"], list):
            sent["content"] = [_part(item["role"], part) for part in item["content"]]
    elif kind == "reasoning":
        sent = without_nulls(sent) | {"summary": item.get("summary") or []}
    return sent


def _part(role: str, part: Item) -> Item:
    if part.get("type") not in _TEXT_PARTS:
        return part
    if role == "assistant":
        return {**part, "type": "output_text", "annotations": part.get("annotations") or []}
    return {"type": "input_text", "text": part["text"]}


def _system(summary: str) -> Item:
    return {"type": "message", "role": "system", "content": SUMMARY + summary}
