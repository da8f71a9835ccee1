"""Sends random commands, and compares what the store shows with a model in memory.

Store and model must agree after each batch, after Redis was emptied, and after a rebuild of every MongoDB view.

    scripts/test tests/conversations                                         two histories, as in CI
    HISTORIES=20 HISTORY_SEED=7 scripts/test tests/conversations -m endless  twenty longer ones, from seed 7 on

HISTORY_BATCHES: how many batches a longer history has. Default: 8.
"""

import os
from collections.abc import Iterator

import pytest

from infrastructure.ids import mint
from infrastructure.settings import ModelSettings, Settings
from infrastructure.stores import redis
from projections.views.catalog import MONGO_VIEWS
from tests.access.apis_as import open_apis, projecting
from tests.conversations.compaction_commands import SUMMARY_MODEL, SUMMARY_WINDOW
from tests.conversations.conversation_model import ConversationModel
from tests.conversations.described import described
from tests.conversations.failed_replies import FAILING_MODEL
from tests.conversations.model_checks import ModelChecks
from tests.conversations.random_commands import RandomCommands
from tests.conversations.reply_commands import ENDLESS_MODEL
from tests.scripted_provider import ScriptedProvider, scripted_provider

SEED = int(os.environ.get("HISTORY_SEED", "1"))
MANY = int(os.environ.get("HISTORIES", "100"))
BATCHES = int(os.environ.get("HISTORY_BATCHES", "8"))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    for provider in scripted_provider():
        provider.models += [ENDLESS_MODEL, FAILING_MODEL, SUMMARY_MODEL]
        yield provider


@pytest.mark.parametrize(
    ("seed", "batches"),
    [
        *(pytest.param(seed, 2, id=f"seed={seed}") for seed in (1, 2)),
        *(
            pytest.param(seed, BATCHES, id=f"seed={seed}, {BATCHES} batches", marks=pytest.mark.endless)
            for seed in range(SEED, SEED + MANY)
        ),
    ],
)
async def test_after_random_commands_the_reads_equal_the_model(
    seed: int, batches: int, settings: Settings, provider: ScriptedProvider
) -> None:
    settings = settings.model_copy(
        update={
            "openai_base_url": provider.url,
            "default_model": "scripted",
            "model_window": 50_000,
            "models": {SUMMARY_MODEL: ModelSettings(window=SUMMARY_WINDOW, safety=1)},
        }
    )
    tenant = mint("conv")
    client = redis.connect(settings)
    async with open_apis(settings) as apis, open_apis(settings) as other_apis:
        model = ConversationModel()
        commands = RandomCommands([apis, other_apis], provider, model, tenant, seed)
        checks = ModelChecks([apis, other_apis], model, tenant)
        try:
            async with projecting(apis.projector):
                for _ in range(batches):
                    for _ in range(2):
                        await commands.send(9)
                        await commands.send_at_once(3)
                    await checks.check(commands.position)
                    await client.flushdb()
            for view in MONGO_VIEWS:
                await apis.projector.reset_view(view)
            await apis.projector.catch_up()
            await client.flushdb()
            await checks.check(commands.position)
        except BaseException as error:
            error.add_note(f"Seed {seed}, after: {'; '.join(commands.sent)}")
            error.add_note(described(model))
            raise
        finally:
            await client.aclose()
