"""Random walks over transcripts: clients of Chat Completions send their whole history with every request.

    scripts/test tests/end_to_end/test_transcript_walks.py                                     a short walk, as in CI
    scripts/test tests/end_to_end/test_transcript_walks.py -m endless                          forty walks of 250 requests
    WALKS=10 WALK_SEED=7 WALK_REQUESTS=100 scripts/test … -m endless                           ten shorter walks, from seed 7 on
    WALK_NAMES=1 scripts/test … -m endless                                                     some clients name conversations

Clients continue, repeat, edit, cut and rewrite transcripts, and delete. Requests run at the same time, and api processes
are killed. Many messages are equal, because the vocabulary is small. These must hold:

- The provider gets each request once, with exactly the messages that were sent. Rendering the record again gives the
  same SHA-256.
- Each reply continues from an item that `walk_model.py` allows.
- Only the messages after that item are stored. After one item, a message is stored once. Exception: two requests
  sent the message at the same time.
- A conversation is listed from its second request on.
- A request whose process was killed leaves an interrupted reply, a complete reply, or nothing. The first parts of a
  long history may also be left.
- Deleted messages are not recognised, and `transcript_prefixes` has no row for them.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from commands.unfinished_histories import MIN_AGE_SECONDS, UnfinishedHistories
from commands.unfinished_histories import SUBJECT as SWEEPER
from infrastructure.ids import conversation_id
from infrastructure.stores.postgres import make_pool
from tests.end_to_end.walk_checks import LogTail
from tests.end_to_end.walk_messages import TENANT
from tests.end_to_end.walk_plan import Answer, Planner, Round
from tests.end_to_end.walk_provider import PlannedAnswers
from tests.end_to_end.walk_run import MODEL, Walk, WalkStore
from tests.event_log.appending import open_log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async
from tests.system import System
from tests.user_service import SECRET, token

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
async def test_each_transcript_continues_the_right_conversation(
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


async def test_a_history_that_a_kill_interrupted_is_stored_anew(store: WalkStore, running: System) -> None:
    def stored() -> dict[str, int]:
        sql = "SELECT originator_id, count(*) FROM events WHERE subject = 'cut off' AND topic = 'item.appended' GROUP BY 1"
        return {conversation_id(stream): count for stream, count in store.log.rows(sql)}

    messages = [{"role": "user", "content": f"question {n} {'x' * 2_000}"} for n in range(4_500)]
    body = {"model": MODEL, "messages": messages, "seed": -1}
    headers = {"authorization": f"Bearer {token(tenant=TENANT, sub='cut off', exp=time.time() + 3_600)}"}

    async def complete(api: int) -> httpx.Response:
        return await store.http.post(f"{store.api_urls[api]}/v1/chat/completions", json=body, headers=headers)

    store.answers.plan(-1, Answer("done"))

    sending = asyncio.create_task(complete(0))
    await wait_until_async(lambda: sum(stored().values()) >= 300, 20, "the first parts of the history")
    store.kill(0)
    with pytest.raises(httpx.TransportError):
        await sending
    [(left, count)] = stored().items()
    assert 300 <= count < 4_500
    answer = await complete(1)
    assert answer.status_code == 200, answer.text
    assert stored() == {left: count, answer.headers["x-conversation-id"]: 4_501}

    pool = make_pool(running.env["POSTGRES_URL"])
    await pool.open()
    async with open_log(running.env["POSTGRES_URL"]) as events:
        await UnfinishedHistories(pool, events, clock=lambda: time.time() + 2 * MIN_AGE_SECONDS).sweep()
    await pool.close()
    deleted = store.log.rows(
        "SELECT originator_id FROM events WHERE subject = %s AND topic = 'conversation.deleted'", SWEEPER
    )
    assert [conversation_id(stream) for (stream,) in deleted] == [left]
