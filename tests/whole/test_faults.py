"""Every process killed and frozen, connections cut, Redis emptied, NOTIFY silenced, all under load: the views catch up by themselves.

    scripts/test tests/whole/test_faults.py                                  a few rounds, as in CI: each kind of fault once
    scripts/test tests/whole/test_faults.py -m endless                       fifty
    FAULT_ROUNDS=20 FAULT_SEED=7 scripts/test tests/whole/test_faults.py     others

A test's id names its rounds and its seed. They give the same faults and the same appends again; the timing is the machine's.
After each round the load pauses, the views show the log's end, and `scripts.verify` finds no difference.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec import Struct

from domain.events import ItemAppended
from domain.items import from_stored
from infrastructure.embedded.logs import last_lines
from infrastructure.embedded.service import answers_http
from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.log import Log
from tests.servers import wait_until
from tests.system import System
from tests.whole.accounts import Acknowledged, Client, Owner, Tally, Told
from tests.whole.faults import APIS, CATCH_UP_SECONDS, FAULTS, KINDS, Fault, Faults, caught_up, longest_behind
from tests.whole.test_killed_apis import Row, assert_log_is_the_account, rows, started

UP = ("--no-model", "--apis", "2", "--projectors", "2")
CLIENTS = 12
SHARED = 4
OWNERS = 2
PAUSE_SECONDS = 0.1
MAX_BEFORE = 60
MAX_MOMENT_SECONDS = 0.02
TWO_AT_ONCE = 0.3
AFTERWARDS = 15
FREEZE_SECONDS = 15.0
SHORT_FREEZE_SECONDS = 3.0
LAST_LINES = 12

A_FEW = int(os.environ.get("FAULT_ROUNDS", "4"))
FIFTY = 50
SEED = int(os.environ.get("FAULT_SEED", "1"))

log = logging.getLogger(__name__)


class Round(Struct, frozen=True):
    """The faults that strike together, so many `seconds` after each api has acknowledged so many appends."""

    faults: tuple[Fault, ...]
    acknowledgements: int
    seconds: float
    freeze_seconds: float

    def __str__(self) -> str:
        return " and ".join(map(str, self.faults))


class Load:
    """Clients that share conversations, and owners that have theirs to themselves. It may pause and go on."""

    def __init__(self, running: System, conversations: Sequence[str], seed: int) -> None:
        urls = {api: running.env[variable] for api, variable in APIS.items()}
        shared, own = conversations[:SHARED], conversations[SHARED:]
        self.tally = Tally()
        self.clients = [
            Client(f"client-{n}", urls, [*shared, own[n]], f"{seed}-client-{n}", self.tally, pause=PAUSE_SECONDS)
            for n in range(CLIENTS)
        ]
        self.owners = [Owner(f"owner-{n}", urls, f"{seed}-owner-{n}", PAUSE_SECONDS) for n in range(OWNERS)]

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Everyone works, and ends what it had begun."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for client in self.clients:
                tasks.create_task(client.append_until(over))
            for owner in self.owners:
                tasks.create_task(owner.work_until(over))
            yield
            over.set()

    async def more(self, acknowledgements: int) -> None:
        """Returns when each api has acknowledged so many more."""
        for api in APIS:
            await self.tally.more(api, acknowledgements)

    @property
    def account(self) -> list[Acknowledged]:
        return [acknowledged for client in self.clients for acknowledged in client.account]

    @property
    def told(self) -> dict[str, list[Told]]:
        return {ident: told for owner in self.owners for ident, told in owner.told.items()}


@pytest.mark.parametrize(
    ("rounds", "seed", "shortest_freeze"),
    [
        pytest.param(A_FEW, SEED, SHORT_FREEZE_SECONDS, id=f"rounds={A_FEW}, seed={SEED}"),
        pytest.param(FIFTY, SEED, FREEZE_SECONDS, id=f"rounds={FIFTY}, seed={SEED}", marks=pytest.mark.endless),
    ],
)
async def test_after_every_fault_under_load_the_views_catch_up_by_themselves_and_show_what_the_log_says(
    running: System, rounds: int, seed: int, shortest_freeze: float
) -> None:
    env, events = running.env, Log(running.env["POSTGRES_URL"])
    settings = Settings(postgres_url=env["POSTGRES_URL"], mongodb_url=env["MONGODB_URL"], redis_url=env["REDIS_URL"])
    [(began,)] = events.rows("SELECT coalesce(max(notification_id), 0) FROM events")
    conversations = await started(running.base_url, SHARED + CLIENTS)
    load = Load(running, conversations, seed)
    faults = Faults(running, settings, load.tally)

    for number, each in enumerate(planned(rounds, seed, shortest_freeze), 1):
        try:
            behind = await strike(faults, each, load, settings)
            log.info("%d of %d: %s; the views were behind for %.1f s", number, rounds, each, behind)
            await assert_views_catch_up_and_equal_the_log(settings)
            await asyncio.to_thread(assert_apis_are_ready, running)
        except BaseException as error:
            error.add_note(f"In round {number} of {rounds}, seed {seed}: {each}\n{last_words(running)}")
            raise

    assert not [client.repeats for client in load.clients if client.repeats["500"]]
    stored, told = rows(events, began), load.told
    assert set(stored) == {*conversations, *told}
    for conversation_id in conversations:
        here = [acknowledged for acknowledged in load.account if acknowledged.append.conversation_id == conversation_id]
        assert_log_is_the_account(conversation_id, stored[conversation_id], here)
    for conversation_id, account in told.items():
        assert_log_is_what_the_owner_was_told(stored[conversation_id], account)


def planned(rounds: int, seed: int, shortest_freeze: float) -> list[Round]:
    """First each kind of fault once, then all others before any comes again; now and then two at once."""
    chance = random.Random(seed)
    drawn = [chance.choice([fault for fault in FAULTS if fault.kind == kind]) for kind in KINDS]
    chance.shuffle(drawn)
    left = [fault for fault in FAULTS if fault not in drawn]
    while len(drawn) < rounds:
        drawn += chance.sample(left, len(left))
        left = list(FAULTS)
    return [
        Round(
            (fault, *with_another(fault, chance)),
            chance.randint(1, MAX_BEFORE),
            chance.uniform(0, MAX_MOMENT_SECONDS),
            chance.uniform(shortest_freeze, FREEZE_SECONDS),
        )
        for fault in drawn[:rounds]
    ]


def with_another(fault: Fault, chance: random.Random) -> list[Fault]:
    """A second fault, of another process; mostly none."""
    others = [other for other in FAULTS if other.victim != fault.victim]
    return [chance.choice(others)] if chance.random() < TWO_AT_ONCE else []


async def strike(faults: Faults, each: Round, load: Load, settings: Settings) -> float:
    """Under load; returns when it goes on as before, and pauses. The answer: for how many seconds the views were behind at the most."""
    over = asyncio.Event()
    async with open_stores(settings) as stores, load.going_on(), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(longest_behind(stores, over))
        await load.more(each.acknowledgements)
        await asyncio.sleep(each.seconds)  # any moment: before, during and after a commit, a batch, a transaction
        async with asyncio.TaskGroup() as striking:
            for fault in each.faults:
                striking.create_task(faults.strike(fault, each.freeze_seconds))
        await load.more(AFTERWARDS)
        over.set()
    return watching.result()


async def assert_views_catch_up_and_equal_the_log(settings: Settings) -> None:
    async with open_stores(settings) as stores:
        seconds = await caught_up(stores)
        verified = await verify(stores, lambda _done, _total: None, wait=0)
    log.info("caught up %.2f s after the load; %d events verified", seconds, verified.events)
    assert verified.ok, "\n".join([f"{verified.different} differences", *map(str, verified.differences)])


def assert_apis_are_ready(running: System) -> None:
    for variable in APIS.values():
        url = f"{running.env[variable]}/health/ready"
        wait_until(lambda url=url: answers_http(url, frozenset({200})), CATCH_UP_SECONDS, f"{url} to say 200")  # type: ignore[misc]


def assert_log_is_what_the_owner_was_told(stored: Sequence[Row], account: Sequence[Told]) -> None:
    """Of one conversation of its own."""
    positions = {told.version: told.position for told in account if told.position is not None}
    kept = [
        Told(
            row.version,
            row.position if row.version in positions else None,
            row.event.topic,
            getattr(row.event, "item_id", None),
            from_stored(row.event.item)["content"] if isinstance(row.event, ItemAppended) else None,
        )
        for row in stored
    ]
    assert kept == account


def last_words(running: System) -> str:
    """Of whoever brings the views forward, and of who starts the processes."""
    names = ("supervisor", "projector", "projector-2")
    return "\n".join(f"{name}:\n{last_lines(running.data / 'run' / f'{name}.log', LAST_LINES)}" for name in names)
