"""A reply asks Redis once for its conversation's snapshot, also where there is none: one that hangs is waited for once, not thrice."""

from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from commands.main import create_app
from context.assembly import Contexts
from context.history_backwards import RecentItems
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.replying import asked
from tests.commands.test_conversations import create, message
from tests.scripted_provider import ScriptedProvider, scripted_provider

ROLLING = {"strategy": "rolling_summary", "budget": 400}


class Snapshots:
    """There are none; counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, *_: object) -> RecentItems | None:
        self.asked += 1
        return None


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots()


@pytest.fixture
async def api(settings: Settings, provider: ScriptedProvider, snapshots: Snapshots) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings.model_copy(update={"openai_base_url": provider.url}), Metrics(), Event())
    async with app.router.lifespan_context(app):
        dependencies = app.state.dependencies
        app.state.dependencies = replace(
            dependencies, contexts=Contexts(dependencies.reader, dependencies.models, snapshots)
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=30) as client:
            yield client


@pytest.mark.parametrize("parameters", [{}, {"truncation": "auto"}, {"truncation": "disabled"}])
async def test_given_no_snapshot_when_a_reply_is_asked_for_then_it_is_looked_for_once(
    api: httpx.AsyncClient, snapshots: Snapshots, parameters: dict[str, Any]
) -> None:
    conversation = await create(api)
    await asked(api, "hi", conversation=conversation, **parameters)
    assert snapshots.asked == 1


async def test_given_no_snapshot_when_a_summary_is_made_first_then_it_is_looked_for_once(
    api: httpx.AsyncClient, snapshots: Snapshots, provider: ScriptedProvider
) -> None:
    items = [message(f"{n}: we talked of tea" * 20) for n in range(9)]
    conversation = await create(api, items=items, context_policy=ROLLING)
    await asked(api, "hi", conversation=conversation)
    assert (snapshots.asked, len(provider.requests)) == (1, 2)


async def test_given_no_snapshot_when_a_reply_goes_on_from_another_then_it_is_looked_for_once(
    api: httpx.AsyncClient, snapshots: Snapshots
) -> None:
    first = await asked(api, "hi")
    await asked(api, "and?", previous_response_id=first["id"])
    assert snapshots.asked == 1
