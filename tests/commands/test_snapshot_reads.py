"""A request for a reply looks up the snapshot at most once."""

from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from commands.main import create_app
from context.assembly import SharedContexts
from context.history_backwards import RecentItems
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, message
from tests.scripted_provider import ScriptedProvider, scripted_provider

ROLLING = {"strategy": "rolling_summary", "budget": 400}


class NoSnapshots:
    """Finds nothing and counts its calls."""

    def __init__(self) -> None:
        self.lookups = 0

    async def __call__(self, *_: object) -> RecentItems | None:
        self.lookups += 1
        return None


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def snapshots() -> NoSnapshots:
    return NoSnapshots()


@pytest.fixture
async def api(
    settings: Settings, provider: ScriptedProvider, snapshots: NoSnapshots
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings.model_copy(update={"openai_base_url": provider.url}), Metrics(), Event())
    async with app.router.lifespan_context(app):
        dependencies = app.state.dependencies
        app.state.dependencies = replace(dependencies, shared_contexts=SharedContexts(dependencies.models, snapshots))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=30) as client:
            yield client


@pytest.mark.parametrize("parameters", [{}, {"truncation": "auto"}, {"truncation": "disabled"}])
async def test_requesting_a_reply_looks_up_a_missing_snapshot_once(
    api: httpx.AsyncClient, snapshots: NoSnapshots, parameters: dict[str, Any]
) -> None:
    conversation = await create_conversation(api)
    await create_response(api, "hi", conversation=conversation, **parameters)
    assert snapshots.lookups == 1


async def test_making_a_summary_looks_up_a_missing_snapshot_once(
    api: httpx.AsyncClient, snapshots: NoSnapshots, provider: ScriptedProvider
) -> None:
    items = [message(f"{n}: we talked of tea" * 20) for n in range(9)]
    conversation = await create_conversation(api, items=items, context_policy=ROLLING)
    await create_response(api, "hi", conversation=conversation)
    assert (snapshots.lookups, len(provider.requests)) == (1, 2)


async def test_continuing_another_reply_looks_up_a_missing_snapshot_once(
    api: httpx.AsyncClient, snapshots: NoSnapshots
) -> None:
    first = await create_response(api, "hi")
    await create_response(api, "and?", previous_response_id=first["id"])
    assert snapshots.lookups == 1


@pytest.mark.parametrize("store", [True, False])
async def test_an_input_that_repeats_items_looks_up_a_missing_snapshot_once(
    api: httpx.AsyncClient, snapshots: NoSnapshots, store: bool
) -> None:
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "rain"}
    first = await create_response(api, [message("hi"), call, output])
    snapshots.lookups = 0
    repeats = [message("hi"), output, message("and?")]
    await create_response(api, repeats, previous_response_id=first["id"], store=store)
    assert snapshots.lookups == 1
