"""The parameters of a Response, with defaults for the parameters that are not set. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from context.rendering import renders_transcripts, uses_responses_api

_DEFAULTS: Final[Mapping[str, Any]] = {
    "access_programs": None,
    "background": False,
    "context_management": None,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "auto",
    "user": None,
}
"""`truncation` is `auto`, because a context policy may leave turns out. A request can forbid this."""

_ONLY_IF_SET: Final = ("background_options", "client_metadata", "stream_options")
_REASONING: Final[Mapping[str, Any]] = {"effort": None, "summary": None}
_TEXT: Final[Mapping[str, Any]] = {"format": {"type": "text"}, "verbosity": "medium"}
_JSON_SCHEMA: Final[Mapping[str, Any]] = {"description": None, "strict": False}
_PROMPT_CACHE: Final[Mapping[str, Any]] = {"mode": "implicit", "ttl": "30m"}


def effective_parameters(parameters: Mapping[str, Any], renderer: int | None) -> dict[str, Any]:
    """The parameters as a Response shows them.

    `renderer`: the number of the renderer that made the request to the provider. None: unknown.
    """
    effective = _with_defaults(_DEFAULTS, parameters)
    effective |= {name: parameters[name] for name in _ONLY_IF_SET if parameters.get(name) is not None}
    if (image := parameters.get("image")) is not None and image.get("context_compression") in ("enabled", "disabled"):
        effective["image"] = image
    if (cache := parameters.get("prompt_cache_options")) is not None:
        effective["prompt_cache_options"] = {**_PROMPT_CACHE, **cache}
    effective["reasoning"] = {**_REASONING, **(parameters.get("reasoning") or {})}
    effective["text"] = _text(parameters.get("text") or {})
    effective["tools"] = [_tool(tool, renderer) for tool in effective["tools"]]
    return effective


def effective_tier(parameters: Mapping[str, Any], reported: str | None, *, finished: bool) -> str:
    """The service tier as a Response shows it. `auto` becomes `default` once the provider has finished."""
    tier = reported or parameters.get("service_tier") or "auto"
    return "default" if finished and tier == "auto" else str(tier)


def _with_defaults(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: default if values.get(name) is None else values[name] for name, default in defaults.items()}


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    effective = {**text, **_with_defaults(_TEXT, text)}
    if effective["format"].get("type") == "json_schema":
        effective["format"] = {**effective["format"], **_with_defaults(_JSON_SCHEMA, effective["format"])}
    return effective


def _tool(tool: Any, renderer: int | None) -> Any:
    """`strict` is true by default in the Responses API, and false in the Chat Completions API."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    strict = renderer is not None and uses_responses_api(renderer) and not renders_transcripts(renderer)
    return {**tool, **_with_defaults({"description": None, "parameters": None, "strict": strict}, tool)}
