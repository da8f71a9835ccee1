"""Windows, tokenizers and prices of models, by their names, from the providers' pages of October 2026.

Where a page is unclear, the smaller window is listed, and no price. The setting MODELS overrides every value.
"""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from context.rendering import CHAT, RESPONSES, TRANSCRIPT_CHAT, TRANSCRIPT_RESPONSES
from context.tokens import encoding_for
from domain.events import Usage
from infrastructure.settings import Settings

ESTIMATED_SAFETY = 0.8
"""`safety` of models whose tokenizer is not in tiktoken. Their tokens are estimated, and the estimate may be too low."""

MAX_CACHED_MODELS = 256
"""How many models' facts are cached. A reply looks up its model about ten times."""


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of a model. `window`: in tokens, counted in `encoding`. `safety`: the part of the window that may be filled, 0 to 1.

    Prices in US dollars for 1,000,000 tokens; None: not known. Cached input without a price of its own costs the input price.
    """

    window: int
    encoding: str
    safety: float
    input_price: float | None = None
    cached_input_price: float | None = None
    output_price: float | None = None


Price = tuple[float, float | None, float]
"""Input, cached input, output."""

_OPENAI: tuple[tuple[str, int, Price | None], ...] = (
    ("gpt-5-pro", 400_000, (15, None, 120)),
    ("gpt-5-mini", 400_000, (0.25, 0.025, 2)),
    ("gpt-5-nano", 400_000, (0.05, 0.005, 0.4)),
    ("gpt-5.1-codex-mini", 400_000, (0.25, 0.025, 2)),
    ("gpt-5.1", 400_000, (1.25, 0.125, 10)),
    ("gpt-5.", 400_000, None),
    ("gpt-5", 400_000, (1.25, 0.125, 10)),
    ("gpt-4.1-mini", 1_047_576, (0.4, 0.1, 1.6)),
    ("gpt-4.1-nano", 1_047_576, (0.1, 0.025, 0.4)),
    ("gpt-4.1", 1_047_576, (2, 0.5, 8)),
    ("gpt-4o-mini", 128_000, (0.15, 0.075, 0.6)),
    ("gpt-4o", 128_000, (2.5, 1.25, 10)),
    ("chatgpt-4o", 128_000, None),
    ("gpt-4-turbo", 128_000, (10, None, 30)),
    ("gpt-4-32k", 32_768, (60, None, 120)),
    ("gpt-4", 8_192, (30, None, 60)),
    ("gpt-3.5", 16_385, (0.5, None, 1.5)),
    ("gpt-oss", 131_072, None),
    ("gpt-", 8_192, None),
    ("o1-mini", 128_000, (1.1, 0.55, 4.4)),
    ("o1-pro", 200_000, (150, None, 600)),
    ("o1", 200_000, (15, 7.5, 60)),
    ("o3-mini", 200_000, (1.1, 0.55, 4.4)),
    ("o3-pro", 200_000, (20, None, 80)),
    ("o3-deep", 200_000, (10, 2.5, 40)),
    ("o3", 200_000, (2, 0.5, 8)),
    ("o4-mini-deep", 200_000, (2, 0.5, 8)),
    ("o4-mini", 200_000, (1.1, 0.275, 4.4)),
    ("o4", 200_000, None),
)
"""(prefix of the name, window, price). The first prefix that matches is used. tiktoken has the tokenizers of these models."""

_OTHERS: tuple[tuple[str, int, Price | None], ...] = (
    ("claude-opus-4-5", 200_000, (5, 0.5, 25)),
    ("claude-opus-4", 200_000, (15, 1.5, 75)),
    ("claude-sonnet-4", 200_000, (3, 0.3, 15)),
    ("claude-haiku-4-5", 200_000, (1, 0.1, 5)),
    ("claude-3-7-sonnet", 200_000, (3, 0.3, 15)),
    ("claude-3-5-sonnet", 200_000, (3, 0.3, 15)),
    ("claude-3-5-haiku", 200_000, (0.8, 0.08, 4)),
    ("claude-3-haiku", 200_000, (0.25, 0.03, 1.25)),
    ("claude", 200_000, None),
    ("gemini-1.0", 32_768, None),
    ("gemini", 1_048_576, None),
    ("gemma-3", 32_768, None),
    ("gemma", 8_192, None),
    ("llama-4", 131_072, None),
    ("llama-3.", 131_072, None),
    ("llama3.", 131_072, None),
    ("meta-llama-3.", 131_072, None),
    ("llama-3", 8_192, None),
    ("llama3", 8_192, None),
    ("meta-llama-3", 8_192, None),
    ("qwen", 32_768, None),
    ("mistral-large", 131_072, None),
    ("ministral", 131_072, None),
    ("mistral", 32_768, None),
    ("mixtral", 32_768, None),
    ("codestral", 32_768, None),
    ("deepseek", 65_536, None),
    ("phi-4", 16_384, None),
    ("phi-3", 4_096, None),
    ("smollm3", 65_536, None),
    ("smollm2", 4_096, None),
)
"""As _OPENAI, for models with other tokenizers."""

_DEFAULT_WINDOW = 4_096


class Models:
    """The facts of any model. The setting MODELS overrides MODEL_WINDOW, and both override the tables of this module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._facts: dict[str, ModelFacts] = {}

    @property
    def renderer(self) -> int:
        """The renderer for requests to the provider, which depends on MODEL_API."""
        return RESPONSES if self._settings.model_api == "responses" else CHAT

    @property
    def transcript_renderer(self) -> int:
        """The renderer for Chat Completions requests, whose messages are sent as they came."""
        return TRANSCRIPT_RESPONSES if self._settings.model_api == "responses" else TRANSCRIPT_CHAT

    def facts(self, name: str) -> ModelFacts:
        """The window, encoding, safety and prices of a model."""
        facts = self._facts.get(name)
        if facts is None:
            if len(self._facts) >= MAX_CACHED_MODELS:
                self._facts.clear()
            facts = self._facts[name] = self._configured_facts(name)
        return facts

    def window(self, name: str) -> int:
        """The model's context window in tokens."""
        return self.facts(name).window

    def encoding(self, name: str) -> str:
        """The encoding that counts the model's tokens, one of `context.encodings.ENCODINGS`."""
        return self.facts(name).encoding

    def max_request_tokens(self, name: str, *, reserved: int = 0) -> int:
        """How many tokens a request may have if `reserved` tokens are kept free for the answer: the rest of the window, times `safety`."""
        facts = self.facts(name)
        return int((facts.window - reserved) * facts.safety)

    def missing_abilities(self, name: str) -> frozenset[str]:  # noqa: ARG002 - nothing is known yet
        """The abilities that the model is known not to have, of: image, file, audio, tools, custom_tools."""
        return frozenset()

    def cost(self, name: str, usage: Usage) -> int | None:
        """The cost of a reply in billionths of a US dollar, rounded. None if a price is not known."""
        facts = self.facts(name)
        if facts.input_price is None or facts.output_price is None:
            return None
        cached_price = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        cached = min(usage.cached_tokens, usage.input_tokens)
        # Prices are dollars for a million tokens, so tokens times price are millionths of a dollar.
        input_millionths = (usage.input_tokens - cached) * facts.input_price + cached * cached_price
        return round((input_millionths + usage.output_tokens * facts.output_price) * 1000)

    def _configured_facts(self, name: str) -> ModelFacts:
        configured: dict[str, Any] = {}
        if self._settings.model_window:
            configured["window"] = self._settings.model_window
        if name in self._settings.models:
            configured.update(self._settings.models[name].model_dump(exclude_none=True))
        return replace(_built_in_facts(name), **configured)


def _built_in_facts(name: str) -> ModelFacts:
    name_without_path = name.rsplit("/", 1)[-1].lower()
    for safety, table in ((1.0, _OPENAI), (ESTIMATED_SAFETY, _OTHERS)):
        for prefix, window, price in table:
            if name_without_path.startswith(prefix):
                return _facts(name, window, price, safety)
    return _facts(name, _DEFAULT_WINDOW, None, ESTIMATED_SAFETY)


def _facts(name: str, window: int, price: Price | None, safety: float) -> ModelFacts:
    input_price, cached, output_price = price or (None, None, None)
    return ModelFacts(
        window=window,
        encoding=encoding_for(name),
        safety=safety,
        input_price=input_price,
        cached_input_price=cached,
        output_price=output_price,
    )
