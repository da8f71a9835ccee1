"""Random walks over transcripts: chat clients that send their whole history with every request, as Chat Completions.

    scripts/test tests/end_to_end/test_transcript_walks.py                                     a short walk, as in CI
    scripts/test tests/end_to_end/test_transcript_walks.py -m endless                          forty walks of 250 requests
    WALKS=10 WALK_SEED=7 WALK_REQUESTS=100 scripts/test … -m endless                           ten others, from seed 7 on
    WALK_NAMES=1 scripts/test … -m endless                                                     in these, some clients name their conversations

Clients continue, repeat, edit, cut the front, rewrite answers, send messages in other shapes, send other people's words, and delete; two or three
requests run at once, and apis are killed. Questions and answers come from a small vocabulary, so that a wrong match shows. These must hold:

- The provider gets exactly the messages that were sent, once, and the recorded request renders again to its SHA-256.
- Each reply goes on where the model says (`walk_model.py`): in one of the same owner's conversations, with the same messages before it.
- Only what follows is stored, below that item. Under one item two messages of a client are equal only if they were sent at once.
- A conversation is listed from its second request on.
- A killed request has left a reply that is interrupted, a complete one, or nothing.
- What is deleted is recognised no more, and the table of prefixes has no row of it.
"""

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from tests.end_to_end.walk_checks import LogTail
from tests.end_to_end.walk_plan import Planner, Round
from tests.end_to_end.walk_provider import PlannedAnswers
from tests.end_to_end.walk_run import Walk, WalkStore
from tests.scripted_provider import ScriptedProvider
from tests.system import System
from tests.user_service import SECRET

UP = ("--no-model", "--apis", "2")
WITH_PROVIDER = True
ENVIRONMENT = {"AUTH_MODE": "jwt", "AUTH_SECRET": SECRET}
APIS = ("api", "api-2")

SEED = int(os.environ.get("WALK_SEED", "1"))
FEW_REQUESTS, FEW_KILLS = 60, 0.02
WALKS = int(os.environ.get("WALKS", "40"))
REQUESTS = int(os.environ.get("WALK_REQUESTS", "250"))
KILLS = 0.005
NAMES = "WALK_NAMES" in os.environ

logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def answers(provider: ScriptedProvider) -> PlannedAnswers:
    answers = PlannedAnswers()
    provider.script = answers.script
    return answers


@pytest.fixture
async def store(
    running: System, urls: list[str], http: httpx.AsyncClient, answers: PlannedAnswers
) -> AsyncIterator[WalkStore]:
    log = LogTail(running.env["POSTGRES_URL"])

    def kill(api: int) -> None:
        running.kill(APIS[api])

    yield WalkStore(http, urls, log, answers, kill)
    log.close()


@pytest.mark.parametrize(
    ("seed", "requests", "kills"),
    [
        pytest.param(1, FEW_REQUESTS, FEW_KILLS, id="seed=1"),
        *(
            pytest.param(seed, REQUESTS, KILLS, id=f"seed={seed}, {REQUESTS} requests", marks=pytest.mark.endless)
            for seed in range(SEED, SEED + WALKS)
        ),
    ],
)
async def test_each_transcript_goes_on_where_it_belongs_and_nothing_is_stored_twice(
    store: WalkStore, seed: int, requests: int, kills: float
) -> None:
    rounds = Planner(seed, kills=kills, names=NAMES).rounds(requests)
    counts = await run_rounds(store, rounds)
    logger.info("seed %d: %d requests, %s", seed, sum(len(planned.requests) for planned in rounds), dict(counts))


async def run_rounds(store: WalkStore, rounds: Sequence[Round]) -> Counter[str]:
    walk = Walk(store)
    for n, planned in enumerate(rounds):
        try:
            await walk.run(planned)
        except BaseException as error:
            error.add_note(f"in round {n} of {len(rounds)}")
            raise
    await walk.finish()
    return walk.checks.counts
