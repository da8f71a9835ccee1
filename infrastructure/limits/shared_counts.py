"""Asks Redis for the counts of all processes together, in one task.

No request fails because Redis is slow or down. The first requests wait for WAIT_SECONDS, or twice as long
if this process is busy. Later requests do not wait, until Redis answers quickly again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, Protocol, TypeVar
from uuid import UUID

import structlog
from redis.asyncio import Redis

from infrastructure.cancellation import raise_if_cancelled

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 0.1

LATE_SECONDS: Final = 0.01
"""If a wait ends this much too late, this process was busy. So the request waits once more."""

ANSWER_SECONDS: Final = 0.5
"""After this time without an answer, Redis counts as unavailable."""

TICK_SECONDS: Final = 0.5
"""The time between calls of each count's `tick`, and the pause after Redis failed."""

LEASE_SECONDS: Final = 5.0
"""A dead process's places stay taken for this long."""

MAX_QUESTIONS: Final = 3
"""A request may ask again, because other requests can take what the first answer allowed."""

MAX_BATCH: Final = 200
"""Counts in one call of a script. Redis serves nobody else meanwhile."""

Script = Literal["window.lua", "concurrent.lua"]


class Count(Protocol):
    """One count, as one process knows it."""

    key: str
    script: Script
    waiting: int
    """Requests that wait for Redis."""

    def has(self, now: float, *, is_shared: bool) -> bool | None:
        """None: Redis must be asked. With `is_shared=False` the process decides by itself."""

    def question(self, now: float) -> Sequence[int]:
        """The arguments of the script. Then `answered` or `failed` is called."""

    def answered(self, now: float, answer: Sequence[int]) -> None:
        """`answer`: the script's numbers for this count."""

    def failed(self) -> None:
        pass

    def tick(self, now: float) -> bool:
        """Whether to ask Redis although no request waits."""

    def close(self) -> bool:
        """From now on, the count only gives back. Returns whether Redis must be asked once more."""


C = TypeVar("C", bound=Count)


async def _wait_for(answer: "asyncio.Future[None]", seconds: float) -> bool:
    for _ in range(2):
        started = time.monotonic()
        await asyncio.wait({answer}, timeout=seconds)
        if answer.done() or time.monotonic() - started < seconds + LATE_SECONDS:
            break
    return answer.done()


@cache
def _lua(name: Script) -> str:
    return resources.files(__package__).joinpath(name).read_text()


class SharedCounts:
    """Until `open` is called, nothing is shared."""

    def __init__(
        self, process_id: UUID, *, wait_seconds: float = WAIT_SECONDS, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._process = str(process_id)
        self._wait_seconds = wait_seconds
        self._answer_seconds = answer_seconds
        self._redis: Redis | None = None
        self._wanted: dict[str, Count] = {}
        self._wake = asyncio.Event()
        self._next: asyncio.Future[None] | None = None
        """Done when Redis has answered for `_wanted`, or has failed."""
        self._task: asyncio.Task[None] | None = None
        self._answers_quickly = False
        self.is_available = False
        """Whether Redis answered the last question."""

    async def open(self, redis: Redis) -> None:
        """If Redis does not answer, the task asks again until Redis answers."""
        self._redis = redis
        await self._ask()
        if self.is_available:
            await self._ask()  # measures how quickly Redis answers, now without the time to connect
        self._task = asyncio.create_task(self._run())

    async def close(self, counts: Iterable[Count]) -> None:
        """Gives back what `counts` have not used, and sends what Redis has not counted."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.is_available:
            self._wanted = {count.key: count for count in counts if count.close()}
            await self._ask()

    def want(self, count: Count) -> None:
        """The next question to Redis includes this count. Does not wait."""
        self._wanted[count.key] = count
        self._wake.set()

    async def used_up(self, counts: Sequence[C]) -> list[C]:
        """The counts of which nothing is left. If the list is empty, take what you need before you await anything."""
        for _ in range(MAX_QUESTIONS):
            now = time.monotonic()
            unknown = [count for count in counts if count.has(now, is_shared=self.is_available) is None]
            if not unknown or not await self._answer_for(unknown):
                break
        now = time.monotonic()
        return [count for count in counts if not self._has(count, now)]

    def _has(self, count: Count, now: float) -> bool:
        has = count.has(now, is_shared=self.is_available)
        return bool(count.has(now, is_shared=False) if has is None else has)

    async def _answer_for(self, counts: Sequence[Count]) -> bool:
        """False if there was no answer in time."""
        if not (self.is_available and self._answers_quickly):
            return False
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        for count in counts:
            self.want(count)
            count.waiting += 1
        try:
            answered = await _wait_for(self._next, self._wait_seconds)
        finally:
            for count in counts:
                count.waiting -= 1
        if not answered and self._answers_quickly:
            self._answers_quickly = False
            log.warning("limits_not_answered")
        return answered

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self._ask()
            raise_if_cancelled()
            if not self.is_available:
                await asyncio.sleep(TICK_SECONDS)

    async def _ask(self) -> None:
        """Asks Redis for `_wanted`. Raises no error of Redis."""
        self._wake.clear()
        wanted, self._wanted = list(self._wanted.values()), {}
        waiting, self._next = self._next, None
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._ask_for(wanted)
        except Exception as error:  # noqa: BLE001 - if the task ended, this process would count by itself for ever
            if self.is_available or self._task is None:
                log.warning("limits_not_shared", error_type=type(error).__name__)
            self.is_available = self._answers_quickly = False
            for count in wanted:
                count.failed()
                self._wanted.setdefault(count.key, count)
        else:
            if not self.is_available and self._task is not None:
                log.info("limits_shared_again")
            self.is_available = True
            self._answers_quickly = time.monotonic() - asked_at < self._wait_seconds
        finally:
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def _ask_for(self, wanted: Sequence[Count]) -> None:
        assert self._redis is not None
        if not wanted:
            await self._redis.ping()
        by_script = defaultdict[Script, list[Count]](list)
        for count in wanted:
            by_script[count.script].append(count)
        for script, counts in by_script.items():
            first: list[Any] = [self._process, round(LEASE_SECONDS * 1000)] if script == "concurrent.lua" else []
            for start in range(0, len(counts), MAX_BATCH):
                batch = counts[start : start + MAX_BATCH]
                now = time.monotonic()
                arguments = [number for count in batch for number in count.question(now)]
                evaluated: Any = self._redis.eval(
                    _lua(script), len(batch), *(count.key for count in batch), *first, *arguments
                )
                answer: list[int] = await evaluated
                size, now = len(answer) // len(batch), time.monotonic()
                for number, count in enumerate(batch):
                    count.answered(now, answer[number * size : (number + 1) * size])
