"""The prices and windows that the package `genai-prices` lists, and a few windows that it lacks.

The package takes 0.3 s and 20 MB to load, so it is loaded at the first look-up.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct

from domain.events import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

OPENROUTER = "openrouter"

_WINDOWS = (("gemini-", 1_048_576),)
"""Neither genai-prices nor Google's `/models` has a window for most Gemini models."""


class PricedModel(Struct, frozen=True):
    provider: "Provider"
    model: "ModelInfo"

    @property
    def window(self) -> int | None:
        if self.model.context_window is not None:
            return self.model.context_window
        return next((window for prefix, window in _WINDOWS if self.model.id.startswith(prefix)), None)

    @property
    def price(self) -> tuple[float | None, float | None, float | None]:
        """Today's prices of input, cached input and output, in US dollars for 1,000,000 tokens.

        None: not listed. A request with a long context may cost more; see `cost`.
        """
        prices = self._prices()
        names = ("input_mtok", "cache_read_mtok", "output_mtok")
        input_price, cached, output = (_base(getattr(prices, name, None)) for name in names)
        return input_price, cached, output

    def cost(self, usage: Usage) -> int | None:
        """In billionths of a US dollar."""
        from genai_prices.types import Usage as PricedUsage  # noqa: PLC0415 - see the module's docstring

        input_price, _, output_price = self.price
        if input_price is None or output_price is None:
            return None
        cached = min(usage.cached_tokens, usage.input_tokens)
        priced = PricedUsage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=cached,
            cache_write_tokens=min(usage.cache_write_tokens, usage.input_tokens - cached),
            output_tokens=usage.output_tokens,
        )
        return round(self._prices().calc_price(priced)["total_price"] * 1_000_000_000)

    def _prices(self) -> "ModelPrice":
        return self.model.get_prices(datetime.now(UTC))


def find_priced(name: str, base_url: str) -> PricedModel | None:
    """The name is also looked up without the part before its last slash."""
    providers = load_providers()
    for reference in dict.fromkeys((name, name.rsplit("/", 1)[-1])):
        for provider in _sellers(reference.lower(), base_url, providers):
            if (model := provider.find_model(reference, all_providers=providers)) is not None:
                return PricedModel(provider, model)
    return None


def _sellers(reference: str, base_url: str, providers: Sequence["Provider"]) -> Iterator["Provider"]:
    """First the provider at `base_url`, then the providers whose pattern for model names matches.

    Last OpenRouter, if the name has a slash.
    """
    yield from (provider for provider in providers if re.match(provider.api_pattern, base_url))
    yield from (provider for provider in providers if provider.model_match and provider.model_match.is_match(reference))
    if "/" in reference:
        yield from (provider for provider in providers if provider.id == OPENROUTER)


def _base(price: object) -> float | None:
    value = price if isinstance(price, Decimal) else getattr(price, "base", None)
    return None if value is None else float(value)


@functools.cache
def load_providers() -> "list[Provider]":
    from genai_prices.data import providers  # noqa: PLC0415 - see the module's docstring

    return providers
