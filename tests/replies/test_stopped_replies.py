"""Replies that are stopped in every way, under each policy: the items, the responses and the next request are what the rule says.

The rule: the items of a reply join its conversation if it completes. `context_policy.stopped` decides whether the question and the partial answer of a
stopped reply do. Those of a failed reply, or of one that is deleted while it runs, never do.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS
from scripts.stores import open_stores
from scripts.verify import verify
from tests.replies.both_apis import open_both_apis, served
from tests.replies.stopped_cases import WAYS, Stops, cases
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def http(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running store: both APIs and the projector."""
    stop = asyncio.Event()
    changed = {"openai_base_url": provider.url, "model_window": 8_000}
    async with open_both_apis(settings.model_copy(update=changed), views=ALL_VIEWS) as apis:
        projecting = asyncio.create_task(apis.projector.run(stop))
        async with served(apis.app) as client:
            yield client
        stop.set()
        await projecting


async def test_a_reply_that_is_stopped_joins_its_conversation_if_the_policy_says_so(
    settings: Settings, http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    stops = Stops(provider, http, [str(http.base_url).rstrip("/")])
    planned = cases(4 * len(WAYS))
    asking = await asyncio.gather(*map(stops.begin, planned))
    await asyncio.gather(*map(stops.stop, planned, asking))
    await asyncio.gather(*map(stops.check, planned))
    async with open_stores(settings) as stores:
        verified = await verify(stores, lambda _done, _total: None, wait=10)
    assert verified.differences == []
