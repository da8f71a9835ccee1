"""Kills api processes at random moments under load. The log has each acknowledged append once, and nothing more.

    scripts/test tests/end_to_end/test_killed_apis.py                                a few rounds, as in CI
    scripts/test tests/end_to_end/test_killed_apis.py -m endless                     a hundred rounds
    KILL_ROUNDS=20 KILL_SEED=7 scripts/test tests/end_to_end/test_killed_apis.py     other rounds

The same number of rounds and the same seed give the same kills. The number of appends and all times differ.
"""

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import httpx
import pytest
from msgspec import Struct

from domain.conversation import Conversation, fold
from domain.events import Event, ItemAppended
from domain.items import from_stored
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.codec import decode
from infrastructure.ids import conversation_id as conversation_id_of
from scripts.http_connection import Connection
from tests.end_to_end.recording_clients import (
    ACKNOWLEDGE_TIMEOUT_SECONDS,
    AcknowledgedAppend,
    AcknowledgementCounter,
    SharingClient,
)
from tests.end_to_end.test_crashes import assert_views_equal_the_log
from tests.log import Log
from tests.system import System

UP = ("--no-model", "--apis", "2")
APIS = {"api": "API_1_URL", "api-2": "API_2_URL"}
CLIENTS = 16
SHARED = 4
MAX_APPENDS_BETWEEN_KILLS = 60
MAX_DELAY_SECONDS = 0.02
BOTH_KILLED_PROBABILITY = 0.15
APPENDS_AFTER_LAST_KILL = 30
REPEATED_APPENDS = 200

A_FEW = int(os.environ.get("KILL_ROUNDS", "2"))
A_HUNDRED = 100
SEED = int(os.environ.get("KILL_SEED", "1"))

logger = logging.getLogger(__name__)


class Round(Struct, frozen=True):
    """Processes that are killed at the same time.

    Each process first acknowledges `acknowledgements` appends. Then `delay_seconds` pass.
    """

    processes: tuple[str, ...]
    acknowledgements: int
    delay_seconds: float


class Row(Struct, frozen=True):
    position: int
    version: int
    event: Event


@pytest.mark.parametrize(
    ("rounds", "seed"),
    [
        pytest.param(A_FEW, SEED, id=f"rounds={A_FEW}, seed={SEED}"),
        pytest.param(A_HUNDRED, SEED, id=f"rounds={A_HUNDRED}, seed={SEED}", marks=pytest.mark.endless),
    ],
)
async def test_when_apis_are_killed_under_load_nothing_is_lost_stored_twice_or_invented(
    running: System, rounds: int, seed: int
) -> None:
    urls = {api: running.env[variable] for api, variable in APIS.items()}
    log, counter, stop = Log(running.env["POSTGRES_URL"]), AcknowledgementCounter(), asyncio.Event()
    [(start,)] = log.rows("SELECT coalesce(max(notification_id), 0) FROM events")
    conversations = await create_conversations(running.base_url, SHARED + CLIENTS)
    shared, own = conversations[:SHARED], conversations[SHARED:]
    clients = [SharingClient(str(n), urls, [*shared, own[n]], f"{seed}-{n}", counter) for n in range(CLIENTS)]

    async with asyncio.TaskGroup() as load:
        for client in clients:
            load.create_task(client.append_until(stop))
        await kill(running, plan_rounds(rounds, seed), counter)
        stop.set()

    appends = [append for client in clients for append in client.acknowledged]
    retries = sum((client.retries for client in clients), Counter[str]())
    replayed = sum(append.replayed for append in appends)
    logger.info("acknowledged %s, retries %s, replayed answers %d", dict(counter.by_api), dict(retries), replayed)
    assert retries.total() >= rounds, "there were fewer retries than kills, so some kills may have hit no request"
    stored = rows_after(log, start)
    assert set(stored) == set(conversations)
    for conversation_id in conversations:
        assert_log_is_what_was_acknowledged(conversation_id, stored[conversation_id], appends)
    for client in clients:
        positions = [append.position for append in client.acknowledged]
        assert positions == sorted(positions), "the appends of one client are not in the order in which it sent them"
    sample = random.Random(seed).sample(appends, min(len(appends), REPEATED_APPENDS))
    await assert_repeats_get_the_first_answer(sample, urls)
    assert rows_after(log, start) == stored
    assert_views_equal_the_log(running)


async def create_conversations(base_url: str, count: int) -> list[str]:
    async with httpx.AsyncClient(base_url=base_url) as http:
        return [(await http.post("/v1/conversations", json={})).json()["id"] for _ in range(count)]


def plan_rounds(rounds: int, seed: int) -> list[Round]:
    rng = random.Random(seed)
    names = [name for _ in range(0, rounds, 2) for name in rng.sample(sorted(APIS), len(APIS))][:rounds]
    return [
        Round(
            tuple(APIS) if rng.random() < BOTH_KILLED_PROBABILITY else (name,),
            rng.randint(1, MAX_APPENDS_BETWEEN_KILLS),
            rng.uniform(0, MAX_DELAY_SECONDS),
        )
        for name in names
    ]


async def kill(running: System, rounds: Sequence[Round], counter: AcknowledgementCounter) -> None:
    """Kills the processes round by round.

    Returns when both processes have acknowledged more appends after the last kill.
    """
    killed: dict[str, int] = {}

    async def wait_for_appends(api: str, acknowledgements: int) -> None:
        if api in killed:
            await asyncio.to_thread(running.wait_restarted, api, killed.pop(api))
        await counter.wait_for_more(api, acknowledgements)

    for kill_round in rounds:
        for api in kill_round.processes:
            await wait_for_appends(api, kill_round.acknowledgements)
        await asyncio.sleep(kill_round.delay_seconds)  # a random moment before, during or after a commit
        killed |= {api: running.kill(api) for api in kill_round.processes}
        logger.info("killed %s after %s", " and ".join(kill_round.processes), dict(counter.by_api))
    for api in APIS:
        await wait_for_appends(api, APPENDS_AFTER_LAST_KILL)


def rows_after(log: Log, position: int) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for stream_id, row_position, version, topic, state in log.rows(
        "SELECT originator_id, notification_id, originator_version, topic, state FROM events WHERE notification_id > %s"
        " ORDER BY originator_id, originator_version",
        position,
    ):
        rows.setdefault(conversation_id_of(stream_id), []).append(Row(row_position, version, decode(topic, state)))
    return rows


def assert_log_is_what_was_acknowledged(
    conversation_id: str, stored: Sequence[Row], acknowledged: Sequence[AcknowledgedAppend]
) -> None:
    appends = [append for append in acknowledged if append.request.conversation_id == conversation_id]
    expected = sorted(item for append in appends for item in append.items)
    in_log = [
        (row.version, row.event.item_id, from_stored(row.event.item)["content"])
        for row in stored
        if isinstance(row.event, ItemAppended)
    ]
    assert sorted(set(expected) - set(in_log)) == [], "acknowledged, but not in the log"
    assert sorted(set(in_log) - set(expected)) == [], "in the log, but not acknowledged: stored twice, or invented"
    assert in_log == expected
    assert [row.version for row in stored] == list(range(1, len(expected) + 2))
    positions = {row.version: row.position for row in stored}
    for append in appends:
        assert tuple(text for _, _, text in append.items) == append.request.texts
        assert append.position == positions[append.version]
    assert fold(row.event for row in stored) == Conversation(
        id=conversation_id,
        tenant=ANONYMOUS.tenant,
        owner=ANONYMOUS.subject,
        version=len(expected) + 1,
        family=conversation_id,
        head=expected[-1][1] if expected else None,
        depth=len(expected),
        items=len(expected),
    )


async def assert_repeats_get_the_first_answer(appends: Sequence[AcknowledgedAppend], urls: Mapping[str, str]) -> None:
    """Repeats each append at every process."""
    for url in urls.values():
        connection = await Connection.open(url)
        for first in appends:
            answer = await first.request.send(connection, ACKNOWLEDGE_TIMEOUT_SECONDS)
            repeated = AcknowledgedAppend(first.request, answer)
            assert repeated.answer.status == 200
            assert repeated.replayed
            assert (repeated.answer.body, repeated.version, repeated.position) == (
                first.answer.body,
                first.version,
                first.position,
            )
        connection.close()
