"""Injects faults under load. The views catch up by themselves.

    scripts/test tests/end_to_end/test_faults.py                                  a few rounds, as in CI
    scripts/test tests/end_to_end/test_faults.py -m endless                       fifty rounds
    FAULT_ROUNDS=20 FAULT_SEED=7 scripts/test tests/end_to_end/test_faults.py     other rounds

The same number of rounds and the same seed give the same faults. The number of appends and all times differ.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from msgspec import Struct

from domain.events import ItemAppended
from domain.items import from_stored
from infrastructure.embedded.logs import last_lines
from infrastructure.embedded.service import answers_http
from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.end_to_end.fault_injection import (
    APIS,
    CATCH_UP_TIMEOUT_SECONDS,
    FAULTS,
    KINDS,
    Fault,
    FaultInjector,
    catch_up,
    max_lag,
)
from tests.end_to_end.recording_clients import (
    AcknowledgedAppend,
    AcknowledgedEvent,
    AcknowledgementCounter,
    ExclusiveClient,
    SharingClient,
)
from tests.end_to_end.test_killed_apis import (
    Row,
    assert_log_is_what_was_acknowledged,
    create_conversations,
    rows_after,
)
from tests.log import Log
from tests.servers import wait_until
from tests.system import System

UP = ("--no-model", "--apis", "2", "--projectors", "2")
OWN_STORES = True
SHARING_CLIENTS = 12
SHARED_CONVERSATIONS = 4
EXCLUSIVE_CLIENTS = 2
PAUSE_SECONDS = 0.1
MAX_APPENDS_BEFORE_FAULT = 60
MAX_DELAY_SECONDS = 0.02
TWO_FAULTS_PROBABILITY = 0.3
APPENDS_AFTER_FAULT = 15
MAX_FREEZE_SECONDS = 15.0
MIN_FREEZE_SECONDS_IN_CI = 3.0
LOG_LINES = 12

A_FEW = int(os.environ.get("FAULT_ROUNDS", "4"))
FIFTY = 50
SEED = int(os.environ.get("FAULT_SEED", "1"))

logger = logging.getLogger(__name__)


class Round(Struct, frozen=True):
    """One or two faults. `acknowledgements`: how many appends each api acknowledges before the delay and the faults."""

    faults: tuple[Fault, ...]
    acknowledgements: int
    delay_seconds: float
    freeze_seconds: float

    def __str__(self) -> str:
        return " and ".join(map(str, self.faults))


class Load:
    def __init__(self, running: System, conversations: Sequence[str], seed: int) -> None:
        urls = {api: running.env[variable] for api, variable in APIS.items()}
        shared, own = conversations[:SHARED_CONVERSATIONS], conversations[SHARED_CONVERSATIONS:]
        self.counter = AcknowledgementCounter()
        self.sharing = [
            SharingClient(
                name=f"client-{n}",
                urls=urls,
                conversations=[*shared, own[n]],
                seed=f"{seed}-client-{n}",
                counter=self.counter,
                pause_seconds=PAUSE_SECONDS,
            )
            for n in range(SHARING_CLIENTS)
        ]
        self.exclusive = [
            ExclusiveClient(f"owner-{n}", urls, f"{seed}-owner-{n}", PAUSE_SECONDS) for n in range(EXCLUSIVE_CLIENTS)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for sharing in self.sharing:
                tasks.create_task(sharing.append_until(stop))
            for exclusive in self.exclusive:
                tasks.create_task(exclusive.work_until(stop))
            yield
            stop.set()

    async def wait_for_appends(self, count: int) -> None:
        for api in APIS:
            await self.counter.wait_for_more(api, count)

    @property
    def appends(self) -> list[AcknowledgedAppend]:
        return [append for client in self.sharing for append in client.acknowledged]

    @property
    def events(self) -> dict[str, list[AcknowledgedEvent]]:
        """The acknowledged events of the exclusive clients, by conversation."""
        return {
            conversation_id: events
            for client in self.exclusive
            for conversation_id, events in client.acknowledged.items()
        }


@pytest.mark.parametrize(
    ("rounds", "seed", "min_freeze_seconds"),
    [
        pytest.param(A_FEW, SEED, MIN_FREEZE_SECONDS_IN_CI, id=f"rounds={A_FEW}, seed={SEED}"),
        pytest.param(FIFTY, SEED, MAX_FREEZE_SECONDS, id=f"rounds={FIFTY}, seed={SEED}", marks=pytest.mark.endless),
    ],
)
async def test_the_views_catch_up_and_equal_the_log_after_each_fault_under_load(
    running: System, rounds: int, seed: int, min_freeze_seconds: float
) -> None:
    env, log = running.env, Log(running.env["POSTGRES_URL"])
    settings = Settings(postgres_url=env["POSTGRES_URL"], mongodb_url=env["MONGODB_URL"], redis_url=env["REDIS_URL"])
    [(start,)] = log.rows("SELECT coalesce(max(notification_id), 0) FROM events")
    conversations = await create_conversations(running.base_url, SHARED_CONVERSATIONS + SHARING_CLIENTS)
    load = Load(running, conversations, seed)
    injector = FaultInjector(running, settings, load.counter)

    for number, fault_round in enumerate(plan_rounds(rounds, seed, min_freeze_seconds), 1):
        try:
            lag = await inject(injector, fault_round, load, settings)
            logger.info("%d of %d: %s; the views were up to %.1f s behind", number, rounds, fault_round, lag)
            await assert_views_catch_up_and_equal_the_log(settings)
            await asyncio.to_thread(assert_apis_are_ready, running)
        except BaseException as error:
            error.add_note(f"In round {number} of {rounds}, seed {seed}: {fault_round}\n{last_log_lines(running)}")
            raise

    assert not [client.retries for client in load.sharing if client.retries["500"]]
    stored = rows_after(log, start)
    assert set(stored) == {*conversations, *load.events}
    for conversation_id in conversations:
        assert_log_is_what_was_acknowledged(conversation_id, stored[conversation_id], load.appends)
    for conversation_id, acknowledged in load.events.items():
        assert_log_has_these_events(stored[conversation_id], acknowledged)


def plan_rounds(rounds: int, seed: int, min_freeze_seconds: float) -> list[Round]:
    """The first rounds have each kind of fault once. The next rounds have each of the other faults once. Then
    all faults repeat.
    """
    rng = random.Random(seed)
    drawn = [rng.choice([fault for fault in FAULTS if fault.kind == kind]) for kind in KINDS]
    rng.shuffle(drawn)
    unused = [fault for fault in FAULTS if fault not in drawn]
    while len(drawn) < rounds:
        drawn += rng.sample(unused, len(unused))
        unused = list(FAULTS)
    return [
        Round(
            (fault, *second_fault(fault, rng)),
            rng.randint(1, MAX_APPENDS_BEFORE_FAULT),
            rng.uniform(0, MAX_DELAY_SECONDS),
            rng.uniform(min_freeze_seconds, MAX_FREEZE_SECONDS),
        )
        for fault in drawn[:rounds]
    ]


def second_fault(fault: Fault, rng: random.Random) -> list[Fault]:
    """At random, a fault of another process, or none."""
    others = [other for other in FAULTS if other.process != fault.process]
    return [rng.choice(others)] if rng.random() < TWO_FAULTS_PROBABILITY else []


async def inject(injector: FaultInjector, fault_round: Round, load: Load, settings: Settings) -> float:
    """Injects the faults under load. Returns for how many seconds the views were behind at most."""
    stop = asyncio.Event()
    async with open_stores(settings) as stores, load.running(), asyncio.TaskGroup() as tasks:
        lag = tasks.create_task(max_lag(stores, stop))
        await load.wait_for_appends(fault_round.acknowledgements)
        await asyncio.sleep(fault_round.delay_seconds)  # a random moment before, during or after a commit
        async with asyncio.TaskGroup() as faults:
            for fault in fault_round.faults:
                faults.create_task(injector.inject(fault, fault_round.freeze_seconds))
        await load.wait_for_appends(APPENDS_AFTER_FAULT)
        stop.set()
    return lag.result()


async def assert_views_catch_up_and_equal_the_log(settings: Settings) -> None:
    async with open_stores(settings) as stores:
        seconds = await catch_up(stores)
        verified = await verify(stores, lambda _done, _total: None, wait=0)
    logger.info("caught up %.2f s after the load; %d events verified", seconds, verified.events)
    assert verified.ok, "\n".join([f"{verified.different} differences", *map(str, verified.differences)])


def assert_apis_are_ready(running: System) -> None:
    for variable in APIS.values():
        url = f"{running.env[variable]}/health/ready"
        ready = partial(answers_http, url, frozenset({200}))
        wait_until(ready, CATCH_UP_TIMEOUT_SECONDS, f"{url} to answer 200")


def assert_log_has_these_events(stored: Sequence[Row], acknowledged: Sequence[AcknowledgedEvent]) -> None:
    """The log has exactly these events in the conversation."""
    positions = {event.version: event.position for event in acknowledged if event.position is not None}
    in_log = [
        AcknowledgedEvent(
            row.version,
            row.position if row.version in positions else None,
            row.event.topic,
            getattr(row.event, "item_id", None),
            from_stored(row.event.item)["content"] if isinstance(row.event, ItemAppended) else None,
        )
        for row in stored
    ]
    assert in_log == acknowledged


def last_log_lines(running: System) -> str:
    names = ("supervisor", "projector", "projector-2")
    return "\n".join(f"{name}:\n{last_lines(running.data / 'run' / f'{name}.log', LOG_LINES)}" for name in names)
