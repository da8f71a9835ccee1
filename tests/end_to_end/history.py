"""One random history of a store: requests, moves of the log, and processes that stop and start."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import cycle

import httpx
from redis import Redis

from projections.views.catalog import CONTEXT
from scripts.stores import open_stores
from scripts.verification.tables import KEYS, RESPONSES, SNAPSHOTS
from scripts.verify import verify
from tests.end_to_end.history_checks import faults_of_log, faults_of_requests
from tests.end_to_end.history_follower import EventFollower
from tests.end_to_end.history_reads import Reads
from tests.end_to_end.history_requests import RequestSender
from tests.end_to_end.log_copy import LogCopy
from tests.end_to_end.log_moves import LogMoves, Move, Rows
from tests.end_to_end.store_processes import StoreProcess, StoreProcesses

FREE_TIMEOUT_SECONDS = 90.0
"""Longer than GRACE_SECONDS (45 s).

Removing rows may leave a running reply that no process works on. This reply locks its conversation for GRACE_SECONDS.
"""

CONNECT_TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 0.1
CLIENTS = 3
FOLLOWERS = 3
LEFT_BY_REMOVED_ROWS = {
    (SNAPSHOTS, "extra"),
    (RESPONSES, "extra"),
    (KEYS, "extra"),
    (SNAPSHOTS, "different"),
    (KEYS, "different"),
}
"""`verify` may report these differences after rows were removed by hand, because other tables still name the rows."""

LEFT_BY_KILLED_PROJECTORS = (CONTEXT, "extra")
"""A projector was killed after it wrote a snapshot and before it stored its position. Nobody reads this snapshot."""


class History:
    def __init__(self, store: StoreProcesses, moves: LogMoves, http: httpx.AsyncClient, name: str) -> None:
        self._store = store
        self._moves = moves
        self._http = http
        self._log = LogCopy({})
        self._sender = RequestSender(http, self._api_urls, name)
        self._reads = Reads(http)
        self._rng = random.Random()
        self.steps: list[str] = []

    async def run(self, step: Callable[["History"], Awaitable[None]], seed: float) -> None:
        self._rng = random.Random(seed)
        await step(self)

    async def requests(self) -> None:
        self._begin("requests", moves=False)
        await self._send(self._rng.randint(2, 8))
        await self._check(None)

    async def dump(self) -> None:
        self._begin("dump", moves=False)
        await asyncio.to_thread(self._moves.dump)

    async def restore(self) -> None:
        if self._moves.dumps:
            dump = self._rng.choice(self._moves.dumps)
            await self._move("restore", partial(self._moves.restore, dump))

    async def remove_rows(self) -> None:
        await self._move("remove rows", partial(self._moves.remove_rows, random.Random(self._rng.random())))

    async def fail_over(self) -> None:
        self._begin("fail over", moves=True)
        postgres = self._store.postgres
        postgres.start_standby()
        await self._send(self._rng.randint(0, 4))
        received = await asyncio.to_thread(self._moves.cut_off_standby)
        await self._send(self._rng.randint(0, 6))

        def promote() -> Rows:
            postgres.fail_over()
            return received

        await self._move("", promote)

    async def restart(self) -> None:
        process = self._rng.choice(self._store.all)
        signum = self._rng.choice((signal.SIGKILL, signal.SIGTERM))
        self._begin(f"{signum.name} {process.name}", moves=False)
        async with self._load(wanted=self._rng.random() < 0.5):
            await asyncio.to_thread(process.stop, signum)
        await self._start([process])
        await self._check(None)

    async def restart_postgres(self) -> None:
        signum = self._rng.choice((signal.SIGQUIT, signal.SIGINT))
        self._begin(f"{signum.name} postgres", moves=False)
        async with self._load(wanted=self._rng.random() < 0.5):
            await asyncio.to_thread(self._store.postgres.primary.stop, signum)
            self._store.postgres.primary.start()
        await self._check(None)

    async def stop_some(self) -> None:
        """Stops one to three processes: projectors, and at most one api."""
        stopped = self._rng.sample(
            [*self._store.projectors, self._rng.choice(self._store.apis)], self._rng.randint(1, 3)
        )
        self._begin(f"stop {_names(stopped)}", moves=False)
        await self._stop(stopped, self._rng.choice((signal.SIGKILL, signal.SIGTERM)))
        await self._send(self._rng.randint(1, 6))
        await self._check(None)

    async def start_all(self) -> None:
        self._begin("start all", moves=False)
        await self._start(self._store.all)
        await self._check(None)

    async def flush_redis(self) -> None:
        self._begin("flush Redis", moves=False)
        with Redis.from_url(self._store.settings.redis_url) as redis:
            redis.flushdb()
        await self._check(None)

    async def finish(self) -> None:
        """Every conversation must accept items and replies. All reads must be current."""
        self._begin("finish", moves=False)
        await self._start(self._store.all)
        await asyncio.gather(
            *(self._is_free(name, random.Random(self._rng.random())) for name in self._log.conversations)
        )
        await self._check(None)
        async with open_stores(self._store.settings) as stores:
            await stores.pool.wait(CONNECT_TIMEOUT_SECONDS)
            verified = await verify(stores, lambda _done, _total: None, wait=10)
        unexplained = [
            str(difference)
            for difference in verified.differences
            if not (self._moves.dangling and (difference.where, difference.what) in LEFT_BY_REMOVED_ROWS)
            and (difference.where, difference.what) != LEFT_BY_KILLED_PROJECTORS
        ]
        assert not unexplained, "\n".join(unexplained)

    async def _move(self, name: str, move: Move) -> None:
        """Moves the log. At random, processes are stopped and clients send requests."""
        apis, projectors = self._store.apis, self._store.projectors
        choices: Sequence[Sequence[StoreProcess]] = ((), projectors, apis, self._store.all, (apis[0], projectors[0]))
        [stopped] = self._rng.choices(choices, weights=(5, 3, 1, 1, 1))
        with_load = self._rng.random() < 0.5
        if name:
            self._begin(name, moves=True)
        self.steps[-1] += f" (stopped: {_names(stopped)}{'; under load' if with_load else ''})"
        await self._stop(stopped, self._rng.choice((signal.SIGKILL, signal.SIGTERM)))
        async with self._followers() as followers:
            async with self._load(wanted=with_load):
                base = await asyncio.to_thread(move)
            self._sender.move_is_over = True
            await self._start(self._store.apis)
            await self._send(self._rng.choice((0, 0, 3, 12)))
            await self._check(base)
        faults = [fault for follower in followers for fault in follower.faults(base, self._log)]
        assert not faults, "\n".join(faults)
        self._sender.start_step(moves=False)
        for projector in self._store.projectors:
            projector.start()
        await self._check(None)

    async def _check(self, base: Rows | None) -> None:
        """Checks the log, the requests and the reads. `base`: the rows that the log must still have; None: all rows."""
        log = LogCopy.read(self._store.settings.postgres_url)
        faults = faults_of_log(log, self._log.rows if base is None else base, self._sender)
        faults += faults_of_requests(self._sender.sent, self._log, base, log, dangling=self._moves.dangling)
        assert not faults, "\n".join(faults)
        self._reads.note(log)
        wait = all(projector.is_running for projector in self._store.projectors) and bool(self._api_urls())
        self._log = await self._reads.check(self._store.settings.postgres_url, self._api_urls(), wait=wait)

    async def _is_free(self, conversation_id: str, rng: random.Random) -> None:
        """Waits until the conversation accepts an item and a reply."""
        async with asyncio.timeout(FREE_TIMEOUT_SECONDS):
            while (await self._sender.append(conversation_id, 1, rng)).status != 200:  # noqa: ASYNC110 - no event says when
                await asyncio.sleep(PAUSE_SECONDS)
            while (await self._sender.reply("reply", conversation_id, rng)).status != 200:  # noqa: ASYNC110 - no event says when
                await asyncio.sleep(PAUSE_SECONDS)

    async def _send(self, count: int) -> None:
        clients = [random.Random(self._rng.random()) for _ in range(CLIENTS)]
        shares = [count // CLIENTS + (n < count % CLIENTS) for n in range(CLIENTS)]

        async def send(client: random.Random, share: int) -> None:
            for _ in range(share):
                await self._sender.send_any(client, self._log)

        await asyncio.gather(*map(send, clients, shares))

    @asynccontextmanager
    async def _load(self, *, wanted: bool) -> AsyncIterator[None]:
        """If `wanted`, clients send requests until the end of the block."""
        stop = asyncio.Event()

        async def send(client: random.Random) -> None:
            while not stop.is_set():
                await self._sender.send_any(client, self._log)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.02)

        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS if wanted else 0):
                clients.create_task(send(random.Random(self._rng.random())))
            yield
            stop.set()

    @asynccontextmanager
    async def _followers(self) -> AsyncIterator[Sequence[EventFollower]]:
        names = self._rng.sample(sorted(self._log.conversations), min(FOLLOWERS, len(self._log.conversations)))
        followers = [EventFollower(url, name) for name, url in zip(names, cycle(self._api_urls()), strict=False)]
        tasks = [asyncio.create_task(follower.follow(self._http)) for follower in followers]
        try:
            yield followers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self, processes: Sequence[StoreProcess], signum: signal.Signals) -> None:
        await asyncio.gather(*(asyncio.to_thread(process.stop, signum) for process in processes))

    async def _start(self, processes: Sequence[StoreProcess]) -> None:
        for process in processes:
            process.start()
        await asyncio.gather(*(asyncio.to_thread(process.wait_until_serving) for process in processes))

    def _api_urls(self) -> list[str]:
        return [api.url for api in self._store.apis if api.is_running]

    def _begin(self, step: str, *, moves: bool) -> None:
        self.steps.append(step)
        self._sender.start_step(moves=moves)


def _names(processes: Sequence[StoreProcess]) -> str:
    return ", ".join(process.name for process in processes) or "none"
