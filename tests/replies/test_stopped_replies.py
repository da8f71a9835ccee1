"""Replies that are stopped in every way, under each policy: the items, the responses and the next request are what the rule says.

The rule: the items of a reply join its conversation if it completes. `context_policy.stopped` decides whether the question and the partial answer of a
stopped reply do. Those of a failed reply, or of one that is deleted while it runs, never do.
"""

import asyncio

import httpx

from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.replies.stopped_cases import WAYS, Stops, cases
from tests.scripted_provider import ScriptedProvider


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
