"""The parameters of a Chat Completions request in the words of the Responses API. Pure.

The public functions take the request's body as it was sent. Its shape is already checked.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from infrastructure.http.errors import ApiError

_SAME = (
    "frequency_penalty",
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "temperature",
    "top_p",
    "user",
)
"""Parameters that both APIs have under the same name."""

_RENAMED = (
    *("max_completion_tokens", "max_tokens", "reasoning_effort", "response_format"),
    *("tool_choice", "tools", "verbosity"),
)
_OWN = frozenset({"conversation", "messages", "model", "stream", "metadata", "store"})
"""What the store itself reads. The provider does not get these as they came."""

_ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"], []),
    "n": (1,),
    "stop": ([],),
    "top_logprobs": (0,),
}
"""Parameters that the Responses API lacks, with the values that are accepted because they ask for nothing. Null is accepted for every parameter."""


def provider_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a provider of Chat Completions gets, as they came: all except those in `_OWN`."""
    return {name: value for name, value in sent.items() if name not in _OWN}


def response_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the Responses API has too, in its form."""
    given = {name: value for name, value in sent.items() if value is not None}
    parameters = {name: given[name] for name in _SAME if name in given}
    if (tokens := given.get("max_completion_tokens", given.get("max_tokens"))) is not None:
        parameters["max_output_tokens"] = tokens
    if "reasoning_effort" in given:
        parameters["reasoning"] = {"effort": given["reasoning_effort"]}
    text = {}
    if "response_format" in given:
        text["format"] = _flat(given["response_format"])
    if "verbosity" in given:
        text["verbosity"] = given["verbosity"]
    if text:
        parameters["text"] = text
    if tools := [*given.get("tools", ()), *map(_as_tool, given.get("functions", ()))]:
        parameters["tools"] = [_flat(tool) for tool in tools]
    if (choice := given.get("tool_choice", _as_choice(given.get("function_call")))) is not None:
        parameters["tool_choice"] = choice if isinstance(choice, str) else _flat_choice(choice)
    return parameters


def check_expressible(sent: Mapping[str, Any], reason: str) -> None:
    """Raises ApiError (400) for the first parameter that asks for something that the Responses API lacks, or for the first answer with audio.

    `reason`: why the Responses API is used.
    """
    for param in _inexpressible(sent):
        message = f"`{param}` cannot be sent: {reason}, which does not have it."
        raise ApiError(400, message, code="unsupported_parameter", param=param)


def _inexpressible(sent: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sent.items():
        if name in _SAME or name in _RENAMED or name in _OWN or value is None:
            continue
        if value not in _ASKS_NOTHING.get(name, ()):
            yield name
    for index, message in enumerate(sent["messages"]):
        if message["role"] == "assistant" and message.get("audio") is not None:
            yield f"messages[{index}].audio"


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """`{type: T, T: {…}}` as `{type: T, …}`, the form of tools, formats and the grammar of a custom tool in the Responses API."""
    kind = nested["type"]
    inner = {name: value for name, value in (nested.get(kind) or {}).items() if value is not None}
    if isinstance(tool_format := inner.get("format"), dict) and tool_format.get("type") == "grammar":
        inner["format"] = _flat(tool_format)
    return {"type": kind, **inner}


def _flat_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    if choice["type"] != "allowed_tools":
        return _flat(choice)
    allowed = choice["allowed_tools"]
    return {"type": "allowed_tools", "mode": allowed["mode"], "tools": [_flat(tool) for tool in allowed["tools"]]}


def _as_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _as_choice(function_call: Any) -> Any:
    """The old `function_call` as a `tool_choice`."""
    return _as_tool(function_call) if isinstance(function_call, dict) else function_call
