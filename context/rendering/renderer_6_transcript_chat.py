"""Renderer 6: `/chat/completions` for a Chat Completions request.

The client's messages are sent unchanged, and so are the parameters that the store does not read itself. But the answer
is always a stream with the usage.

Shapes: `openai/types/chat/completion_create_params.py` of the official SDK.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def render(model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters["chat"]`: the client's parameters, without the parameters that the store itself reads."""
    sent = parameters.get("chat") or {}
    return {
        "model": model,
        "messages": list(messages),
        **sent,
        "stream": True,
        "stream_options": {**(sent.get("stream_options") or {}), "include_usage": True},
    }
