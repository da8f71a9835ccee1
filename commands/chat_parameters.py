"""Turns the parameters of a Chat Completions request into parameters of the Responses API. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from commands.response_body import LOGPROBS
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
"""Parameters that have the same name in both APIs."""

_RENAMED = (
    *("logprobs", "max_completion_tokens", "max_tokens", "reasoning_effort", "response_format"),
    *("tool_choice", "tools", "top_logprobs", "verbosity"),
)
_OWN = frozenset({"conversation", "messages", "model", "stream", "metadata", "store"})
"""The store itself reads these."""

_ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"], []),
    "n": (1,),
    "stop": ([],),
}
"""Parameters that are not sent through the Responses API, with the values that ask for nothing."""


def provider_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters for a provider of Chat Completions, as they came."""
    return {name: value for name, value in sent.items() if name not in _OWN}


def response_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in sent.items() if value is not None}
    parameters = {name: given[name] for name in _SAME if name in given}
    if (tokens := given.get("max_completion_tokens", given.get("max_tokens"))) is not None:
        parameters["max_output_tokens"] = tokens
    if given.get("logprobs"):
        parameters["include"] = [LOGPROBS]
    if given.get("top_logprobs"):
        parameters["top_logprobs"] = given["top_logprobs"]
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
    """Raises ApiError (400) if the request cannot be sent through the Responses API. `reason`: why the Responses API is used."""
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
    """`{type: T, T: {…}}` as `{type: T, …}`."""
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
    return _as_tool(function_call) if isinstance(function_call, dict) else function_call
