"""Renderer 5: as renderer 3, with more parameters, breakpoints of the prompt cache, and the ids of some items.

Shapes: `openai/types/responses/response_create_params.py` of the official SDK. `client_metadata` is from Codex, and
the penalties are from the Open Responses specification.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering import renderer_3_responses
from context.rendering.parts import sent_cache_options
from domain.items import Item

_ADDED_PARAMETERS = (
    "access_programs",
    "client_metadata",
    "frequency_penalty",
    "image",
    "moderation",
    "presence_penalty",
)
_WITH_ID = frozenset(
    {
        "code_interpreter_call",
        "computer_call",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_approval_request",
        "mcp_call",
        "mcp_list_tools",
        "web_search_call",
    }
)
"""The API accepts items of these types only with an `id`.

We send our ids, not the client's, because stored links hold our ids. Our ids have the prefixes that the API requires.
"""

BREAKPOINT = "prompt_cache_breakpoint"

_EMPTY = (None, 0)
"""A penalty of 0 changes nothing, and not every provider knows the penalties."""


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
    *,
    item_ids: Sequence[str] = (),
) -> dict[str, Any]:
    body = renderer_3_responses.render(model, instructions, summary, items, parameters)
    body |= {name: parameters[name] for name in _ADDED_PARAMETERS if parameters.get(name) not in _EMPTY}
    body |= sent_cache_options(parameters)
    if (obfuscation := (parameters.get("stream_options") or {}).get("include_obfuscation")) is not None:
        body["stream_options"] = {"include_obfuscation": obfuscation}
    left_out = renderer_3_responses.unsendable(items)
    sent_indexes = [index for index in range(len(items)) if index not in left_out]
    summaries = len(body["input"]) - len(sent_indexes)  # the summary comes before the items
    for position, index in enumerate(sent_indexes, summaries):
        sent = _with_breakpoints(items[index], body["input"][position])
        body["input"][position] = _with_id(item_ids[index], sent) if item_ids else sent
    return body


def _with_breakpoints(item: Item, sent: Item) -> Item:
    """Adds the breakpoints of `item`, which renderer 3 leaves out."""
    parts = item.get("content")
    if sent["type"] != "message" or not isinstance(parts, list) or not any(BREAKPOINT in part for part in parts):
        return sent
    return {**sent, "content": [_with_breakpoint(*pair) for pair in zip(parts, sent["content"], strict=True)]}


def _with_breakpoint(part: Item, sent: Item) -> Item:
    return {**sent, BREAKPOINT: part[BREAKPOINT]} if isinstance(part.get(BREAKPOINT), dict) else sent


def _with_id(item_id: str, item: Item) -> Item:
    if item["type"] in _WITH_ID:
        return {"type": item["type"], "id": item_id, **item}
    if item["type"] == "local_shell_call_output" and item.get("call_id"):
        # The SDK's type has the call's id in `id`, the API's guide has it in `call_id`.
        return {**item, "id": item["call_id"]}
    return item
