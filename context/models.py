"""What is known of models: windows, tokenizers, abilities and prices.

A fact learnt from a refusal only makes a window smaller, or removes an ability. Such a fact never changes a setting.
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
"""If the real window is smaller, the provider refuses a long request. Then the store may learn a smaller window."""

ESTIMATED_SAFETY = 0.8
"""For models whose tokens are estimated. The estimate may be too low."""

MAX_CACHED_MODELS = 256
"""A reply looks up its model about ten times."""


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of one model.

    `window`: in tokens. `output`: the most tokens of an answer. `safety`: the part of the window that may be filled, 0
    to 1. `accepts`: only abilities of which something is known. Prices: US dollars for 1,000,000 tokens. Cached input
    without a price of its own costs the input price. `priced`: the model's entry in genai-prices; also None if a
    setting has a price. None: not known.
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
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listed: Mapping[str, ListedModel] = {}
        self._learnt: Mapping[str, LearntModel] = {}
        self._facts: dict[str, ModelFacts] = {}

    def load_prices(self) -> None:
        load_providers()

    def set_listed(self, entries: Iterable[Mapping[str, Any]]) -> None:
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
        return RESPONSES if self._settings.model_api == "responses" else CHAT

    @property
    def transcript_renderer(self) -> int:
        return TRANSCRIPT_RESPONSES if self._settings.model_api == "responses" else TRANSCRIPT_CHAT

    def facts(self, name: str) -> ModelFacts:
        facts = self._facts.get(name)
        if facts is None:
            if len(self._facts) >= MAX_CACHED_MODELS:
                self._facts.clear()
            facts = self._facts[name] = self._look_up(name)
        return facts

    def window(self, name: str) -> int:
        return self.facts(name).window

    def encoding(self, name: str) -> str:
        return self.facts(name).encoding

    def unknown(self, name: str) -> list[Literal["window", "price"]]:
        facts = self.facts(name)
        unknown: list[Literal["window", "price"]] = []
        if not facts.window_is_known:
            unknown.append("window")
        if facts.input_price is None or facts.output_price is None:
            unknown.append("price")
        return unknown

    def missing_abilities(self, name: str) -> frozenset[str]:
        """Abilities of which nothing is known are not included."""
        return frozenset(ability for ability, accepted in self.facts(name).accepts.items() if not accepted)

    def max_request_tokens(self, name: str, *, reserved: int = 0, window: int | None = None) -> int:
        """`reserved`: tokens kept free for the answer."""
        facts = self.facts(name)
        return int(((window or facts.window) - reserved) * facts.safety)

    def cost(self, name: str, usage: Usage, *, reported: str | None = None) -> int | None:
        """In billionths of a US dollar.

        None if the price of input or output is not known. `reported`: the model's name in the answer. That model's
        price is used, unless a setting has a price for `name`.
        """
        configured = self._settings.models.get(name)
        facts = self.facts(name if reported is None or (configured and configured.names_a_price) else reported)
        if facts.priced is not None:
            return facts.priced.cost(usage)
        if facts.input_price is None or facts.output_price is None:
            return None
        cached_price = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        cached = min(usage.cached_tokens, usage.input_tokens)
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
        """Some providers list a model with a path before its name (`models/gemini-2.5-pro`).

        Requests may leave the path out.
        """
        if name in self._listed:
            return self._listed[name]
        below_a_path = (model for model_id, model in self._listed.items() if model_id.endswith(f"/{name}"))
        return next(below_a_path, ListedModel())


def _first(configured: float | None, otherwise: float | None) -> float | None:
    return otherwise if configured is None else configured
