"""The queue: each command is in one batch, in its conversation's order, and batches under way share no conversation."""

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commands import EndConversation
from infrastructure.event_log.append_request import IdempotencyKey, LogUnavailable
from infrastructure.event_log.queue import BATCH_BYTES, BATCH_COMMANDS, WORTH_COMMANDS, Queue, QueuedAppend
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.event_log.test_log import opened, say, start, texts, work
from tests.log import Log
from tests.queries.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = LogUnavailable(outcome_unknown=False)

Put = tuple[int, int]
"""(conversation, bytes)"""

STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, BATCH_BYTES // 2)), max_size=30),
        st.sampled_from(["first", "second"]),
    ),
    max_size=60,
)


async def turns(count: int = 5) -> None:
    """Lets everything go on that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


class Two:
    """The two tasks that take batches, of which a test says when one is done."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.under_way: list[Sequence[QueuedAppend]] = []
        self.given: list[Sequence[QueuedAppend]] = []
        self._done: list[asyncio.Event] = []
        self.tasks = [asyncio.create_task(self._run()) for _ in range(2)]

    async def _run(self) -> None:
        while batch := await self.queue.take():
            done = asyncio.Event()
            self.under_way.append(batch)
            self.given.append(batch)
            self._done.append(done)
            await done.wait()
            self.queue.done(batch, [FAILED] * len(batch))

    async def end(self, place: int) -> None:
        if place < len(self.under_way):
            del self.under_way[place]
            self._done.pop(place).set()
        await turns()

    def are_sound(self) -> None:
        assert not any(task.done() for task in self.tasks)
        sets = [{waiting.work.conversation_id for waiting in batch} for batch in self.under_way]
        assert all(one.isdisjoint(other) for one in sets for other in sets if one is not other)
        assert all(len(batch) <= BATCH_COMMANDS for batch in self.under_way)
        assert all(len(batch) == 1 or sum(each.work.size for each in batch) <= BATCH_BYTES for batch in self.under_way)


@given(STEPS)
def test_whatever_comes_and_ends_when_then_each_command_is_in_one_batch_in_its_conversations_order(
    steps: list[list[Put] | str],
) -> None:
    async def scenario() -> None:
        queue = Queue()
        two = Two(queue)
        await turns()
        put: list[tuple[str, str]] = []
        futures = []
        for step in steps:
            if isinstance(step, str):
                await two.end(0 if step == "first" else 1)
            else:
                for conversation, size in step:
                    command = work(
                        f"conv_{conversation:032x}", EndConversation(), size=size, correlation_id=f"{len(put)}"
                    )
                    put.append((command.conversation_id, command.correlation_id))
                    futures.append(queue.put(command))
                await turns()
            two.are_sound()
            assert two.under_way or all(future.done() for future in futures), "somebody waits for nothing"
        queue.close()
        while two.under_way:
            await two.end(0)
        await asyncio.wait_for(asyncio.gather(*two.tasks), 5)
        assert all(future.exception() is FAILED for future in futures)
        given_out = [(it.work.conversation_id, it.work.correlation_id) for batch in two.given for it in batch]
        assert Counter(given_out) == Counter(put)
        for ident in {ident for ident, _ in put}:
            assert [it for it in given_out if it[0] == ident] == [it for it in put if it[0] == ident]

    asyncio.run(scenario())


async def test_many_are_shared_by_two_batches_and_few_wait_for_the_one_that_is_under_way() -> None:
    queue = Queue()
    two = Two(queue)
    await turns()
    futures: list[asyncio.Future[Any]] = []

    def put(count: int) -> None:
        futures.extend(queue.put(work(mint("conv"), EndConversation())) for _ in range(count))

    put(1)
    await turns()
    assert [len(batch) for batch in two.under_way] == [1]
    put(WORTH_COMMANDS - 1)
    await turns()
    assert [len(batch) for batch in two.under_way] == [1]
    put(1)
    await turns()
    assert [len(batch) for batch in two.under_way] == [1, WORTH_COMMANDS]
    await two.end(0)
    await two.end(0)
    put(20)
    await turns()
    assert [len(batch) for batch in two.under_way] == [10, 10]
    await two.end(0)
    await two.end(0)
    assert await asyncio.gather(*futures, return_exceptions=True) == [FAILED] * len(futures)


async def test_given_it_is_closed_when_the_last_that_wait_are_let_go_of_then_both_tasks_end() -> None:
    queue = Queue()
    two = Two(queue)
    await turns()
    first = queue.put(work(mint("conv"), EndConversation()))
    await turns()
    late = queue.put(work(mint("conv"), EndConversation()))
    queue.close()
    await turns()
    queue.let_go(time.monotonic() + 1)
    await two.end(0)
    await asyncio.wait_for(asyncio.gather(*two.tasks), 5)
    assert [str(future.exception()) for future in (first, late)] == [
        str(LogUnavailable(outcome_unknown=True)),
        str(LogUnavailable(outcome_unknown=False)),
    ]


async def test_given_the_first_that_waits_is_let_go_of_then_those_behind_it_wait_no_longer() -> None:
    queue = Queue()
    two = Two(queue)
    await turns()
    busy = mint("conv")
    futures = [queue.put(work(busy, EndConversation()))]
    await turns()
    futures.append(queue.put(work(busy, EndConversation())))
    since = time.monotonic()
    futures += [queue.put(work(mint("conv"), EndConversation())) for _ in range(WORTH_COMMANDS)]
    await turns()
    assert [len(batch) for batch in two.under_way] == [1]
    queue.let_go(since)
    await turns()
    assert [len(batch) for batch in two.under_way] == [1, WORTH_COMMANDS]
    queue.close()
    await two.end(0)
    await two.end(0)
    await asyncio.gather(*two.tasks)
    await asyncio.gather(*futures, return_exceptions=True)


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


def one_waits(log: Log) -> bool:
    """Whether a batch stands at the append lock; by then another was sent behind it, over the same connection."""
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'append_turn'::regclass AND NOT granted"
    return log.rows(waiting) == [(1,)]


async def test_given_one_key_in_two_batches_at_once_then_one_command_has_it(settings: Settings, log: Log) -> None:
    async with opened(settings.postgres_url) as events:
        idents = [await start(events) for _ in range(20)]
        key: dict[str, Any] = {
            "idempotency": IdempotencyKey("k", b"f"),
            "answer": lambda appended: b"%d" % appended.version,
        }
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as holder:
            await holder.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
            appends = [asyncio.create_task(events.append(work(ident, say("a"), **key))) for ident in idents]
            await eventually(lambda: one_waits(log))
        answers = await asyncio.gather(*appends)
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert sum(len(texts(log, ident)) for ident in idents) == 1


async def test_given_the_connection_is_cut_at_the_lock_with_two_batches_on_it_then_every_command_is_appended_once(
    settings: Settings, log: Log
) -> None:
    async with opened(settings.postgres_url) as events:
        idents = [await start(events) for _ in range(20)]
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as holder:
            await holder.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
            appends = [asyncio.create_task(events.append(work(ident, say("a")))) for ident in idents]
            await eventually(lambda: one_waits(log))
            await holder.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'append_turn'::regclass AND NOT granted"
            )
        await asyncio.gather(*appends)
    assert [texts(log, ident) for ident in idents] == [["a"]] * 20
