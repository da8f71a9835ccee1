"""An api process killed at random moments under load: what was acknowledged is in the log once, and nothing else is.

    scripts/test tests/whole/test_killed_apis.py                                a few rounds, as in CI
    scripts/test tests/whole/test_killed_apis.py -m endless                     a hundred
    KILL_ROUNDS=20 KILL_SEED=7 scripts/test tests/whole/test_killed_apis.py     others

A test's id names its rounds and its seed. They give the same kills and the same appends again; the timing is the machine's.
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
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.codec import decode
from infrastructure.ids import conversation_id as conversation_id_of
from scripts.http_connection import Connection
from tests.log import Log
from tests.system import System
from tests.whole.accounts import PATIENCE_SECONDS, Acknowledged, Client, Tally
from tests.whole.test_crashes import assert_views_equal_the_log

UP = ("--no-model", "--apis", "2")
APIS = {"api": "API_1_URL", "api-2": "API_2_URL"}
CLIENTS = 16
SHARED = 4
MAX_BETWEEN_KILLS = 60
MAX_MOMENT_SECONDS = 0.02
BOTH = 0.15
AFTER_THE_LAST = 30
REPEATED_IN_THE_END = 200

A_FEW = int(os.environ.get("KILL_ROUNDS", "2"))
A_HUNDRED = 100
SEED = int(os.environ.get("KILL_SEED", "1"))

log = logging.getLogger(__name__)


class Round(Struct, frozen=True):
    """Who is killed, together, so many `seconds` after each of them has acknowledged so many appends."""

    victims: tuple[str, ...]
    acknowledgements: int
    seconds: float


class Row(Struct, frozen=True):
    """A row of the log."""

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
async def test_apis_killed_again_and_again_under_load_lose_double_and_invent_nothing(
    running: System, rounds: int, seed: int
) -> None:
    urls = {api: running.env[variable] for api, variable in APIS.items()}
    events, tally, over = Log(running.env["POSTGRES_URL"]), Tally(), asyncio.Event()
    [(began,)] = events.rows("SELECT coalesce(max(notification_id), 0) FROM events")
    conversations = await started(running.base_url, SHARED + CLIENTS)
    shared, own = conversations[:SHARED], conversations[SHARED:]
    clients = [Client(str(n), urls, [*shared, own[n]], f"{seed}-{n}", tally) for n in range(CLIENTS)]

    async with asyncio.TaskGroup() as load:
        for client in clients:
            load.create_task(client.append_until(over))
        await kill(running, planned(rounds, seed), tally)
        over.set()

    account = [acknowledged for client in clients for acknowledged in client.account]
    repeats = sum((client.repeats for client in clients), Counter[str]())
    replayed = sum(acknowledged.replayed for acknowledged in account)
    log.info("acknowledged %s, repeated %s, %d of them replayed", dict(tally.by), dict(repeats), replayed)
    assert repeats.total() >= rounds, "a kill was not noticed: the test shows nothing"
    stored = rows(events, began)
    assert set(stored) == set(conversations)
    for conversation_id in conversations:
        here = [acknowledged for acknowledged in account if acknowledged.append.conversation_id == conversation_id]
        assert_log_is_the_account(conversation_id, stored[conversation_id], here)
    for client in clients:
        positions = [acknowledged.position for acknowledged in client.account]
        assert positions == sorted(positions), "what one client appended one after the other is in that order"
    some = random.Random(seed).sample(account, min(len(account), REPEATED_IN_THE_END))
    await assert_repeats_are_answered_as_at_first(some, urls)
    assert rows(events, began) == stored
    assert_views_equal_the_log(running)


async def started(base_url: str, count: int) -> list[str]:
    """So many new conversations."""
    async with httpx.AsyncClient(base_url=base_url) as http:
        return [(await http.post("/v1/conversations", json={})).json()["id"] for _ in range(count)]


def planned(rounds: int, seed: int) -> list[Round]:
    """Both processes about equally often, in any order; now and then both together."""
    chance = random.Random(seed)
    names = [name for _ in range(0, rounds, 2) for name in chance.sample(sorted(APIS), len(APIS))][:rounds]
    return [
        Round(
            tuple(APIS) if chance.random() < BOTH else (name,),
            chance.randint(1, MAX_BETWEEN_KILLS),
            chance.uniform(0, MAX_MOMENT_SECONDS),
        )
        for name in names
    ]


async def kill(running: System, plan: Sequence[Round], tally: Tally) -> None:
    """Kills as planned; returns when both processes acknowledge again."""
    killed: dict[str, int] = {}

    async def back(api: str, acknowledgements: int) -> None:
        if api in killed:
            await asyncio.to_thread(running.wait_restarted, api, killed.pop(api))
        await tally.more(api, acknowledgements)

    for each in plan:
        for api in each.victims:
            await back(api, each.acknowledgements)
        await asyncio.sleep(each.seconds)  # any moment: before, during and after a commit
        killed |= {api: running.kill(api) for api in each.victims}
        log.info("killed %s, after %s", " and ".join(each.victims), dict(tally.by))
    for api in APIS:
        await back(api, AFTER_THE_LAST)


def rows(events: Log, after: int) -> dict[str, list[Row]]:
    """All of the log behind a position, by conversation, in order of versions."""
    found: dict[str, list[Row]] = {}
    for stream_id, position, version, topic, state in events.rows(
        "SELECT originator_id, notification_id, originator_version, topic, state FROM events WHERE notification_id > %s"
        " ORDER BY originator_id, originator_version",
        after,
    ):
        found.setdefault(conversation_id_of(stream_id), []).append(Row(position, version, decode(topic, state)))
    return found


def assert_log_is_the_account(conversation_id: str, stored: Sequence[Row], account: Sequence[Acknowledged]) -> None:
    """What the clients were told of one conversation is what the log holds, and nothing but that."""
    told = sorted(item for acknowledged in account for item in acknowledged.items)
    kept = [
        (row.version, row.event.item_id, from_stored(row.event.item)["content"])
        for row in stored
        if isinstance(row.event, ItemAppended)
    ]
    assert sorted(set(told) - set(kept)) == [], "acknowledged, but not in the log"
    assert sorted(set(kept) - set(told)) == [], "in the log, but not acknowledged: doubled, or invented"
    assert kept == told
    assert [row.version for row in stored] == list(range(1, len(told) + 2))
    positions = {row.version: row.position for row in stored}
    for acknowledged in account:
        assert tuple(text for _, _, text in acknowledged.items) == acknowledged.append.texts
        assert acknowledged.position == positions[acknowledged.version]
    assert fold(row.event for row in stored) == Conversation(
        id=conversation_id,
        tenant=DEFAULT.tenant,
        owner=DEFAULT.subject,
        version=len(told) + 1,
        family=conversation_id,
        head=told[-1][1] if told else None,
        depth=len(told),
    )


async def assert_repeats_are_answered_as_at_first(account: Sequence[Acknowledged], urls: Mapping[str, str]) -> None:
    """By every process."""
    for url in urls.values():
        connection = await Connection.open(url)
        for first in account:
            again = Acknowledged(first.append, await first.append.sent(connection, PATIENCE_SECONDS))
            assert again.answer.status == 200
            assert again.replayed
            assert (again.answer.body, again.version, again.position) == (
                first.answer.body,
                first.version,
                first.position,
            )
        connection.close()
