"""Renderer 4: as renderer 2, with the penalties, and with parameters that do not change the answer.

Shapes: `openai/types/chat/completion_create_params.py` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from context.rendering import renderer_2_chat
from context.rendering.parts import sent_cache_options
from domain.items import Item

_ADDED_PARAMETERS = (
    "frequency_penalty",
    "moderation",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
)
_EMPTY = (None, 0)
"""A penalty of 0 changes nothing, and not every provider knows the penalties."""


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    body = renderer_2_chat.render(model, instructions, summary, items, parameters)
    body |= {name: parameters[name] for name in _ADDED_PARAMETERS if parameters.get(name) not in _EMPTY}
    body |= sent_cache_options(parameters)
    if (obfuscation := (parameters.get("stream_options") or {}).get("include_obfuscation")) is not None:
        body["stream_options"] = {**body["stream_options"], "include_obfuscation": obfuscation}
    return body
