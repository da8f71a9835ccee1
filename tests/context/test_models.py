"""What is known of models by their names, and what settings say better; which there are; what a reply cost."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import ValidationError

from domain.errors import ModelFailed
from domain.events import Usage
from infrastructure.settings import Settings
from replies.provider.provider import Model
from tests.provider import Provider
from tests.provider import provider as running_provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    yield from running_provider()


@pytest.fixture
async def asking(provider: Provider) -> AsyncIterator[Callable[..., Model]]:
    """Makes models that ask the provider, with these settings; closes them."""
    async with AsyncExitStack() as stack:

        def ask(**named: Any) -> Model:
            model = Model(Settings.model_validate({"openai_base_url": provider.url, **named}))
            stack.push_async_callback(model.close)
            return model

        yield ask


@pytest.mark.parametrize(
    ("name", "window", "encoding", "safety", "priced"),
    [
        ("gpt-5", 400_000, "o200k_base", 1.0, True),
        ("gpt-5-mini-2025-08-07", 400_000, "o200k_base", 1.0, True),
        ("openai/GPT-4o", 128_000, "o200k_base", 1.0, True),
        ("gpt-4", 8_192, "cl100k_base", 1.0, True),
        ("o3", 200_000, "o200k_base", 1.0, True),
        ("claude-sonnet-4-5", 200_000, "o200k_base", 0.8, True),
        ("gemini-2.5-pro", 1_048_576, "o200k_base", 0.8, False),
        ("Qwen/Qwen2.5-7B-Instruct", 32_768, "o200k_base", 0.8, False),
        ("smollm2-135m", 4_096, "o200k_base", 0.8, False),
        ("of-tomorrow", 4_096, "o200k_base", 0.8, False),
    ],
)
def test_a_model_is_known_by_how_its_name_begins(
    name: str, window: int, encoding: str, safety: float, priced: bool
) -> None:
    model = Model(Settings())
    assert (model.window(name), model.encoding(name), model.room(name)) == (window, encoding, safety)
    assert (model.cost(name, Usage(input_tokens=1)) is not None) is priced


def test_settings_say_it_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", '{"mine": {"window": 999, "safety": 0.5}, "gpt-4o": {"output_price": 3}}')
    model = Model(Settings())
    assert (model.window("mine"), model.room("mine"), model.encoding("mine")) == (999, 0.5, "o200k_base")
    assert model.facts("gpt-4o").output_price == 3
    assert model.facts("gpt-4o").input_price == 2.5
    assert Model(Settings(model_window=50)).window("gpt-5") == 50
    assert Model(Settings(model_window=50)).window("mine") == 999


@pytest.mark.parametrize(
    "given",
    [
        "{",
        "[]",
        '{"a": 5}',
        '{"a": {"windows": 5}}',
        '{"a": {"window": 0}}',
        '{"a": {"safety": 1.5}}',
        '{"a": {"input_price": -1}}',
        '{"a": {"encoding": "p50k_base"}}',
        "[" * 100_000,
    ],
)
def test_settings_that_make_no_sense_keep_it_from_starting(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MODELS", given)
    with pytest.raises(ValidationError, match="models"):
        Settings()


def test_an_empty_setting_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "")
    monkeypatch.setenv("DEFAULT_MODELS", " ")
    assert (Settings().models, Settings().default_models) == ({}, {})


def test_a_reply_costs_billionths_of_a_dollar() -> None:
    model = Model(Settings())
    usage = Usage(input_tokens=1_000, cached_tokens=400, output_tokens=10)
    assert model.cost("gpt-4o", usage) == 600 * 2_500 + 400 * 1_250 + 10 * 10_000
    assert model.cost("gpt-4", usage) == 1_000 * 30_000 + 10 * 60_000
    assert model.cost("gpt-4", Usage(input_tokens=1, cached_tokens=5)) == 30_000
    assert model.cost("of-tomorrow", usage) is None


async def test_a_tenant_has_its_own_default_model(asking: Callable[..., Model], provider: Provider) -> None:
    model = asking(default_models={"acme": "big"})
    assert await model.default_model("acme") == "big"
    assert await model.default_model("other") == "scripted"
    named = Model(Settings(default_model="small", default_models={"acme": "big"}))
    assert [await named.default_model(tenant) for tenant in ("acme", "other")] == ["big", "small"]
    provider.models.clear()
    with pytest.raises(ModelFailed, match="lists no model"):
        await asking().default_model("other")


async def test_a_model_is_known_where_the_provider_or_a_setting_names_it(
    asking: Callable[..., Model], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"default_model": "a", "default_models": {"acme": "b"}, "models": {"c": {}}}
    model = asking(**named)
    for name in ("a", "b", "c"):
        assert await model.known(name)
    assert provider.listed == 0
    assert await model.known("scripted")
    assert [await model.known("new") for _ in range(3)] == [False, False, False]
    assert provider.listed == 1  # it has just been asked
    provider.models += ["new", "models/under-a-path"]
    monkeypatch.setattr("replies.provider.model_list.REFRESHED_SECONDS", 0.0)
    assert await model.known("new")
    assert await model.known("under-a-path")
    assert provider.listed == 2


async def test_a_provider_that_can_not_be_listed_may_have_any_model(
    asking: Callable[..., Model], provider: Provider
) -> None:
    provider.models.clear()
    assert await asking().known("any")
    provider.close()
    assert await asking().known("any")
