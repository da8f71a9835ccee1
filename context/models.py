"""What is known of models: windows, tokenizers, abilities and prices.

The facts come, in this order, from the settings MODELS and MODEL_WINDOW, from the provider's `/models`
(`listed_models.py`), and from the package genai-prices (`model_prices.py`). Without a setting, the
encoding follows from the model's name (`tokens.py`). A fact that was learnt from a refusal
(`learnt_models.py`) can only make a window smaller, or remove an ability. It never changes what a setting says.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct

from context.learnt_models import LearntModel
from context.listed_models import ABILITIES, ListedModel, listed_model
from context.model_prices import PricedModel, find_priced, load_providers
from context.rendering import CHAT, RESPONSES, TRANSCRIPT_CHAT, TRANSCRIPT_RESPONSES
from context.tokens import encoding_for, is_exact
from domain.events import Usage
from infrastructure.settings import ModelSettings, Settings

UNKNOWN_WINDOW = 200_000
"""The window that the store assumes if nothing is known.

If the real one is smaller, the provider refuses a long request. Then the store learns a smaller window.
"""

ESTIMATED_SAFETY = 0.8
"""`safety` of models whose tokenizer is not in tiktoken. Their tokens are estimated, and the estimate may be too low."""

MAX_CACHED_MODELS = 256
"""How many models' facts are cached. A reply looks up its model about ten times."""


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of a model.

    window      in tokens, counted in `encoding`. UNKNOWN_WINDOW, or less, if it is not known
    output      the most tokens that an answer can have; None: not known
    safety      the part of the window that may be filled, 0 to 1
    accepts     for each ability of which something is known, whether the model has it. `other_items` and `reasoning` are only here if
                they were learnt to be missing
    …_price     in US dollars for 1,000,000 tokens; None: not known. Cached input without a price of its own costs the input price
    priced      the model's entry in genai-prices. None if there is none, or if a setting has a price
    """

    window: int
    window_is_known: bool
    output: int | None = None
    encoding: str
    safety: float
    accepts: Mapping[str, bool] = {}
    input_price: float | None = None
    cached_input_price: float | None = None
    output_price: float | None = None
    priced: PricedModel | None = None


class Models:
    """The facts of any model. `set_listed` is called when the provider's list was read, `set_learnt` when learnt facts were read or a fact was learnt."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listed: Mapping[str, ListedModel] = {}
        self._learnt: Mapping[str, LearntModel] = {}
        self._facts: dict[str, ModelFacts] = {}

    def load_prices(self) -> None:
        """Loads genai-prices. Without this call, the first look-up of a model does it."""
        load_providers()

    def set_listed(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """`entries`: the provider's list of models, as it came."""
        listed = {str(entry.get("id")): listed_model(entry) for entry in entries}
        if listed != self._listed:
            self._listed = listed
            self._facts.clear()

    def set_learnt(self, learnt: Mapping[str, LearntModel]) -> None:
        if learnt != self._learnt:
            self._learnt = dict(learnt)
            self._facts.clear()

    @property
    def renderer(self) -> int:
        """The renderer for requests to the provider, which depends on MODEL_API."""
        return RESPONSES if self._settings.model_api == "responses" else CHAT

    @property
    def transcript_renderer(self) -> int:
        """The renderer for Chat Completions requests, whose messages are sent as they came."""
        return TRANSCRIPT_RESPONSES if self._settings.model_api == "responses" else TRANSCRIPT_CHAT

    def facts(self, name: str) -> ModelFacts:
        """What is known of the model."""
        facts = self._facts.get(name)
        if facts is None:
            if len(self._facts) >= MAX_CACHED_MODELS:
                self._facts.clear()
            facts = self._facts[name] = self._look_up(name)
        return facts

    def window(self, name: str) -> int:
        """The model's context window in tokens."""
        return self.facts(name).window

    def encoding(self, name: str) -> str:
        """The encoding that counts the model's tokens, one of `context.encodings.ENCODINGS`."""
        return self.facts(name).encoding

    def unknown(self, name: str) -> list[Literal["window", "price"]]:
        """Which of the model's window and price are not known."""
        facts = self.facts(name)
        unknown: list[Literal["window", "price"]] = []
        if not facts.window_is_known:
            unknown.append("window")
        if facts.input_price is None or facts.output_price is None:
            unknown.append("price")
        return unknown

    def missing_abilities(self, name: str) -> frozenset[str]:
        """The abilities that the model lacks. Abilities of which nothing is known are not included."""
        return frozenset(ability for ability, accepted in self.facts(name).accepts.items() if not accepted)

    def max_request_tokens(self, name: str, *, reserved: int = 0, window: int | None = None) -> int:
        """How many tokens a request may have if `reserved` tokens are kept free for the answer: the rest of the window, times `safety`.

        `window`: used instead of the model's window.
        """
        facts = self.facts(name)
        return int(((window or facts.window) - reserved) * facts.safety)

    def cost(self, name: str, usage: Usage, *, reported: str | None = None) -> int | None:
        """The cost of a reply in billionths of a US dollar, rounded. None if the price of input or output is not known.

        `reported`: the model's name in the provider's answer. The price of that model is used, unless a setting has a price for `name`.
        """
        configured = self._settings.models.get(name)
        facts = self.facts(name if reported is None or (configured and configured.names_a_price) else reported)
        if facts.priced is not None:
            return facts.priced.cost(usage)
        if facts.input_price is None or facts.output_price is None:
            return None
        cached_price = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        cached = min(usage.cached_tokens, usage.input_tokens)
        # Prices are dollars for a million tokens, so tokens times price are millionths of a dollar.
        input_millionths = (usage.input_tokens - cached) * facts.input_price + cached * cached_price
        return round((input_millionths + usage.output_tokens * facts.output_price) * 1000)

    def _look_up(self, name: str) -> ModelFacts:
        configured = self._settings.models.get(name, ModelSettings())
        listed = self._find_listed(name)
        learnt = self._learnt.get(name, LearntModel())
        priced = find_priced(name, self._settings.openai_base_url)
        input_price, cached_price, output_price = priced.price if priced else (None, None, None)
        configured_window = configured.window or self._settings.model_window or None
        known_window = configured_window or listed.window or (priced.window if priced else None)
        limits = (known_window or UNKNOWN_WINDOW, listed.max_window, learnt.window)
        accepts = {**listed.accepts, **dict.fromkeys(learnt.missing, False)}
        if configured.accepts is not None:
            accepts = {ability: ability in configured.accepts for ability in ABILITIES}
        prices = {
            "input_price": _first(configured.input_price, input_price),
            "cached_input_price": _first(configured.cached_input_price, cached_price),
            "output_price": _first(configured.output_price, output_price),
        }
        return ModelFacts(
            window=configured_window or min(limit for limit in limits if limit is not None),
            window_is_known=(known_window or learnt.window) is not None,
            output=configured.output or listed.output,
            encoding=configured.encoding or encoding_for(name),
            safety=configured.safety or (1.0 if is_exact(name) else ESTIMATED_SAFETY),
            accepts=accepts,
            priced=None if configured.names_a_price else priced,
            **prices,
        )

    def _find_listed(self, name: str) -> ListedModel:
        """What the provider lists about the model. Empty if it does not list the model.

        Some providers list a model with a path before its name (`models/gemini-2.5-pro`). Requests leave the path out.
        """
        if name in self._listed:
            return self._listed[name]
        below_a_path = (model for model_id, model in self._listed.items() if model_id.endswith(f"/{name}"))
        return next(below_a_path, ListedModel())


def _first(configured: float | None, otherwise: float | None) -> float | None:
    return otherwise if configured is None else configured
