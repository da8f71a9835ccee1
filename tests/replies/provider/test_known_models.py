"""Which model a reply asks that names none, and which models are known."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from domain.errors import ModelFailed
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from tests.provider import Provider


@pytest.fixture
async def asking(provider: Provider) -> AsyncIterator[Callable[..., ModelProvider]]:
    """Makes models that ask the provider, with these settings; closes them."""
    async with AsyncExitStack() as stack:

        def ask(**named: Any) -> ModelProvider:
            model = ModelProvider(Settings.model_validate({"openai_base_url": provider.url, **named}))
            stack.push_async_callback(model.close)
            return model

        yield ask


async def test_a_tenant_has_its_own_default_model(asking: Callable[..., ModelProvider], provider: Provider) -> None:
    model = asking(default_models={"acme": "big"})
    assert await model.default_model("acme") == "big"
    assert await model.default_model("other") == "scripted"
    named = ModelProvider(Settings(default_model="small", default_models={"acme": "big"}))
    assert [await named.default_model(tenant) for tenant in ("acme", "other")] == ["big", "small"]
    provider.models.clear()
    with pytest.raises(ModelFailed, match="lists no model"):
        await asking().default_model("other")


async def test_a_model_is_known_where_the_provider_or_a_setting_names_it(
    asking: Callable[..., ModelProvider], provider: Provider, monkeypatch: pytest.MonkeyPatch
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
    asking: Callable[..., ModelProvider], provider: Provider
) -> None:
    provider.models.clear()
    assert await asking().known("any")
    provider.close()
    assert await asking().known("any")
