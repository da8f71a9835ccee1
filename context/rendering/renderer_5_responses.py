"""Renderer 5: `/responses` as in renderer 3, with the parameters that it lacks.

Shapes: `openai/types/responses/response_create_params.py` of the official SDK. It lacks `client_metadata`, which Codex sends to the API, and
the penalties, which the Open Responses specification has.
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
_EMPTY = (None, 0)
"""A penalty of 0 changes nothing, and not every provider knows it."""


def render(
    model: str,
    instructions: Sequence[str],
    summary: str | None,
    items: Sequence[Item],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of the request. It asks for a streamed answer that the provider does not store."""
    body = renderer_3_responses.render(model, instructions, summary, items, parameters)
    body |= {name: parameters[name] for name in _ADDED_PARAMETERS if parameters.get(name) not in _EMPTY}
    body |= sent_cache_options(parameters)
    if (obfuscation := (parameters.get("stream_options") or {}).get("include_obfuscation")) is not None:
        body["stream_options"] = {"include_obfuscation": obfuscation}
    return body
