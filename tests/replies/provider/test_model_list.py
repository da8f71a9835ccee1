"""Which model is the default, and which models exist. Both depend on the settings and on the provider's list of models."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from domain.errors import ModelFailed
from infrastructure.settings import Settings
from replies.provider.model_list import REFRESH_SECONDS
from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import Clock
from tests.scripted_provider import ScriptedProvider, SlowModels

MakeClient = Callable[..., ModelProvider]


@pytest.fixture
async def make_client(provider: ScriptedProvider, clock: Clock) -> AsyncIterator[MakeClient]:
    """A function that makes a client of the provider with the given settings. The fixture closes all clients at the end."""
    async with AsyncExitStack() as stack:

        def make(**settings: Any) -> ModelProvider:
            all_settings = Settings.model_validate({"openai_base_url": provider.url, **settings})
            client = ModelProvider(all_settings, clock=clock)
            stack.push_async_callback(client.close)
            return client

        yield make


async def test_the_default_model_is_the_tenants_the_configured_or_the_first_listed_one(
    make_client: MakeClient, provider: ScriptedProvider
) -> None:
    client = make_client(tenant_defaults={"acme": {"model": "big"}})
    assert await client.default_model("acme") == "big"
    assert await client.default_model("other") == "scripted"
    with_default = ModelProvider(Settings(default_model="small", tenant_defaults={"acme": {"model": "big"}}))
    assert [await with_default.default_model(tenant) for tenant in ("acme", "other")] == ["big", "small"]
    provider.models.clear()
    with pytest.raises(ModelFailed, match="lists no model"):
        await make_client().default_model("other")


async def test_a_model_exists_if_a_setting_or_the_provider_names_it(
    make_client: MakeClient, provider: ScriptedProvider, clock: Clock
) -> None:
    client = make_client(default_model="a", tenant_defaults={"acme": {"model": "b"}}, models={"c": {}})
    for name in ("a", "b", "c"):
        assert await client.has_model(name)
    assert provider.list_requests == 0
    assert await client.has_model("scripted")
    assert [await client.has_model("new") for _ in range(3)] == [False, False, False]
    assert provider.list_requests == 1
    provider.models += ["new", "models/under-a-path"]
    clock.now += REFRESH_SECONDS + 1
    assert await client.has_model("new")
    assert await client.has_model("under-a-path")
    assert provider.list_requests == 2


async def test_any_model_exists_if_the_provider_lists_none_or_cannot_be_reached(
    make_client: MakeClient, provider: ScriptedProvider
) -> None:
    provider.models.clear()
    assert await make_client().has_model("any")
    provider.close()
    assert await make_client().has_model("any")


async def test_any_model_exists_if_no_provider_is_configured() -> None:
    assert await ModelProvider(Settings()).has_model("anything")


async def test_a_lookup_of_a_listed_model_does_not_wait_while_others_fetch_the_list(
    make_client: MakeClient, provider: ScriptedProvider, clock: Clock
) -> None:
    client = make_client()
    assert await client.has_model("scripted")
    clock.now += REFRESH_SECONDS + 0.1
    provider.models = slow = SlowModels("scripted")
    others = [asyncio.create_task(client.has_model(f"other-{number}")) for number in range(50)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(1):
        assert await client.has_model("scripted")
    slow.released.set()
    assert not any(await asyncio.gather(*others))
    assert provider.list_requests == 2


async def test_half_of_a_surrogate_pair_in_a_models_name_is_replaced(
    make_client: MakeClient, provider: ScriptedProvider
) -> None:
    provider.models = ["a\ud83d", "🙂"]
    assert [model["id"] for model in await make_client().list_models()] == ["a\ufffd", "🙂"]
