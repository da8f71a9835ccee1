"""What a provider's `/models` says of a model. Every provider has fields of its own."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

ABILITIES = ("image", "file", "audio", "tools", "custom_tools")

MAX_TOKENS = 2**31 - 1
"""A larger number counts as unknown."""


class ListedModel(Struct, frozen=True, kw_only=True):
    """What a provider says of a model. None: unknown.

    `window`: in tokens. `max_window`: the window is not larger than this. `output`: the most tokens of an answer.
    `accepts`: by ability. An absent ability is unknown.
    """

    window: int | None = None
    max_window: int | None = None
    output: int | None = None
    accepts: Mapping[str, bool] = {}


def listed_model(entry: Mapping[str, Any]) -> ListedModel:
    """Reads a model's entry.

    Providers have different names for the window. vLLM: `max_model_len`. OpenRouter and Together: `context_length`.
    llama.cpp: `meta.n_ctx`. LM Studio: `loaded_context_length`. Groq: `context_window`. The server may have loaded the
    model with a smaller window than `max_window`.
    """
    meta, top = _object(entry, "meta"), _object(entry, "top_provider")
    windows = (
        *(entry.get(name) for name in ("max_model_len", "context_length", "loaded_context_length", "context_window")),
        meta.get("n_ctx"),
        top.get("context_length"),
    )
    outputs = (entry.get("max_completion_tokens"), top.get("max_completion_tokens"))
    return ListedModel(
        window=_smallest(windows),
        max_window=_smallest((meta.get("n_ctx_train"), entry.get("max_context_length"))),
        output=_smallest(outputs),
        accepts=dict(_abilities(entry)),
    )


def _abilities(entry: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """OpenRouter lists `architecture.input_modalities` and `supported_parameters`. Mistral has `capabilities`."""
    modalities = _object(entry, "architecture").get("input_modalities")
    if isinstance(modalities, list):
        yield from ((ability, ability in modalities) for ability in ("image", "file", "audio"))
    parameters = entry.get("supported_parameters")
    if isinstance(parameters, list):
        yield "tools", "tools" in parameters
    capabilities = _object(entry, "capabilities")
    for ability, name in (("image", "vision"), ("tools", "function_calling")):
        if isinstance(value := capabilities.get(name), bool):
            yield ability, value


def _smallest(values: tuple[object, ...]) -> int | None:
    """Text, 0 and negative numbers count as unknown."""
    numbers = [value for value in values if type(value) is int and 0 < value <= MAX_TOKENS]
    return min(numbers, default=None)


def _object(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entry.get(name)
    return value if isinstance(value, dict) else {}
