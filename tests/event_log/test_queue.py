"""The queue puts each command into one batch, and keeps the order of each conversation."""

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commands import EndConversation
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import LogBusy, LogUnavailable
from infrastructure.event_log.queue import (
    MAX_BATCH_BYTES,
    MAX_BATCH_COMMANDS,
    MAX_QUEUED_COMMANDS,
    MAX_SHARE,
    SECOND_BATCH_COMMANDS,
    AppendQueue,
    QueuedAppend,
)
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.event_log.appending import append_texts, open_log, request, start, texts, with_key
from tests.log import Log
from tests.queries.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = LogUnavailable(outcome_unknown=False)

Put = tuple[int, int]
"""A queued command: (number of its conversation, its size in bytes)."""

STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, MAX_BATCH_BYTES // 2)), max_size=30),
        st.sampled_from(["first", "second"]),
    ),
    max_size=60,
)


async def run_ready_tasks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TwoTasks:
    """Two tasks that take batches, like the tasks of EventLog. `end` fails a batch in flight."""

    def __init__(self, queue: AppendQueue) -> None:
        self.queue = queue
        self.in_flight: list[Sequence[QueuedAppend]] = []
        self.batches: list[Sequence[QueuedAppend]] = []
        self._done: list[asyncio.Event] = []
        self.running = [asyncio.create_task(self._run()) for _ in range(2)]

    async def _run(self) -> None:
        while batch := await self.queue.next_batch():
            done = asyncio.Event()
            self.in_flight.append(batch)
            self.batches.append(batch)
            self._done.append(done)
            await done.wait()
            for queued in batch:
                queued.resolve(FAILED)
            self.queue.finish(batch)

    async def end(self, index: int) -> None:
        if index < len(self.in_flight):
            del self.in_flight[index]
            self._done.pop(index).set()
        await run_ready_tasks()

    def check(self) -> None:
        assert not any(task.done() for task in self.running)
        sets = [{queued.request.conversation_id for queued in batch} for batch in self.in_flight]
        assert all(one.isdisjoint(other) for one in sets for other in sets if one is not other)
        assert all(len(batch) <= MAX_BATCH_COMMANDS for batch in self.in_flight)
        assert all(
            len(batch) == 1 or sum(queued.request.size for queued in batch) <= MAX_BATCH_BYTES
            for batch in self.in_flight
        )


@given(STEPS)
def test_each_command_is_in_one_batch_and_each_conversation_keeps_its_order(
    steps: list[list[Put] | str],
) -> None:
    async def scenario() -> None:
        queue = AppendQueue()
        tasks = TwoTasks(queue)
        await run_ready_tasks()
        put: list[tuple[str, str]] = []
        futures = []
        for step in steps:
            if isinstance(step, str):
                await tasks.end(0 if step == "first" else 1)
            else:
                for conversation, size in step:
                    command = request(
                        f"conv_{conversation:032x}", EndConversation(), size=size, correlation_id=f"{len(put)}"
                    )
                    put.append((command.conversation_id, command.correlation_id))
                    futures.append(queue.put(command))
                await run_ready_tasks()
            tasks.check()
            assert tasks.in_flight or all(future.done() for future in futures), (
                "a caller waits although no batch is in flight"
            )
        queue.close()
        while tasks.in_flight:
            await tasks.end(0)
        await asyncio.wait_for(asyncio.gather(*tasks.running), 5)
        assert all(future.exception() is FAILED for future in futures)
        in_batches = [
            (queued.request.conversation_id, queued.request.correlation_id)
            for batch in tasks.batches
            for queued in batch
        ]
        assert Counter(in_batches) == Counter(put)
        for conversation_id in {conversation_id for conversation_id, _ in put}:
            in_order = [command for command in put if command[0] == conversation_id]
            assert [command for command in in_batches if command[0] == conversation_id] == in_order

    asyncio.run(scenario())


async def test_few_commands_wait_for_a_batch_in_flight_and_many_start_a_second() -> None:
    queue = AppendQueue()
    tasks = TwoTasks(queue)
    await run_ready_tasks()
    futures: list[asyncio.Future[Any]] = []

    def put(count: int) -> None:
        futures.extend(queue.put(request(mint("conv"), EndConversation())) for _ in range(count))

    put(1)
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1]
    put(SECOND_BATCH_COMMANDS - 1)
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1]
    put(1)
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1, SECOND_BATCH_COMMANDS]
    await tasks.end(0)
    await tasks.end(0)
    put(20)
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [10, 10]
    await tasks.end(0)
    await tasks.end(0)
    assert await asyncio.gather(*futures, return_exceptions=True) == [FAILED] * len(futures)


async def test_both_tasks_end_when_a_closed_queue_fails_its_last_requests() -> None:
    queue = AppendQueue()
    tasks = TwoTasks(queue)
    await run_ready_tasks()
    first = queue.put(request(mint("conv"), EndConversation()))
    await run_ready_tasks()
    late = queue.put(request(mint("conv"), EndConversation()))
    queue.close()
    await run_ready_tasks()
    queue.fail_older_than(time.monotonic() + 1)
    await tasks.end(0)
    await asyncio.wait_for(asyncio.gather(*tasks.running), 5)
    failures = [future.exception() for future in (first, late)]
    assert [type(failure) for failure in failures] == [LogUnavailable, LogUnavailable]
    assert [getattr(failure, "outcome_unknown", None) for failure in failures] == [True, False]


async def test_requests_start_when_the_oldest_waiting_request_fails() -> None:
    queue = AppendQueue()
    tasks = TwoTasks(queue)
    await run_ready_tasks()
    busy = mint("conv")
    futures = [queue.put(request(busy, EndConversation()))]
    await run_ready_tasks()
    futures.append(queue.put(request(busy, EndConversation())))
    since = time.monotonic()
    futures += [queue.put(request(mint("conv"), EndConversation())) for _ in range(SECOND_BATCH_COMMANDS)]
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1]
    queue.fail_older_than(since)
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1, SECOND_BATCH_COMMANDS]
    queue.close()
    await tasks.end(0)
    await tasks.end(0)
    await asyncio.gather(*tasks.running)
    await asyncio.gather(*futures, return_exceptions=True)


async def test_a_tenant_that_fills_its_share_does_not_delay_another() -> None:
    queue = AppendQueue()
    tasks = TwoTasks(queue)
    futures = [queue.put(request(mint("conv"), EndConversation())) for _ in range(int(MAX_SHARE * MAX_QUEUED_COMMANDS))]
    with pytest.raises(LogBusy):
        queue.put(request(mint("conv"), EndConversation()))
    other = mint("conv")
    futures.append(queue.put(request(other, EndConversation(), principal=Principal("other", "eve", SCOPES))))
    await run_ready_tasks()
    assert other in {queued.request.conversation_id for queued in tasks.in_flight[0][:2]}
    queue.close()
    while tasks.in_flight:
        await tasks.end(0)
    await asyncio.gather(*tasks.running)
    await asyncio.gather(*futures, return_exceptions=True)


async def test_requests_do_not_wait_for_another_tenants_conversation_in_flight() -> None:
    queue = AppendQueue()
    tasks = TwoTasks(queue)
    await run_ready_tasks()
    busy = mint("conv")
    futures = [queue.put(request(busy, EndConversation()))]
    await run_ready_tasks()
    futures += [queue.put(request(busy, EndConversation())) for _ in range(SECOND_BATCH_COMMANDS)]
    other = Principal("other", "eve", SCOPES)
    futures += [queue.put(request(mint("conv"), EndConversation(), principal=other)) for _ in range(3)]
    await run_ready_tasks()
    assert [len(batch) for batch in tasks.in_flight] == [1, 3]
    queue.close()
    while tasks.in_flight:
        await tasks.end(0)
    await asyncio.gather(*tasks.running)
    await asyncio.gather(*futures, return_exceptions=True)


def one_batch_waits_for_the_lock(log: Log) -> bool:
    """The second batch waits behind the first batch on the same connection."""
    statement = "SELECT count(*) FROM pg_locks WHERE relation = 'append_turn'::regclass AND NOT granted"
    return log.rows(statement) == [(1,)]


async def test_a_key_in_two_batches_in_flight_is_used_by_one_command(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_ids = [await start(events) for _ in range(20)]
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as lock_holder:
            await lock_holder.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
            appends = [
                asyncio.create_task(events.append(request(conversation_id, append_texts("a"), **with_key("k"))))
                for conversation_id in conversation_ids
            ]
            await eventually(lambda: one_batch_waits_for_the_lock(log))
        answers = await asyncio.gather(*appends)
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert sum(len(texts(log, conversation_id)) for conversation_id in conversation_ids) == 1


async def test_commands_of_two_batches_on_a_cut_connection_are_appended_once(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_ids = [await start(events) for _ in range(20)]
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as lock_holder:
            await lock_holder.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
            appends = [
                asyncio.create_task(events.append(request(conversation_id, append_texts("a"))))
                for conversation_id in conversation_ids
            ]
            await eventually(lambda: one_batch_waits_for_the_lock(log))
            await lock_holder.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'append_turn'::regclass AND NOT granted"
            )
        await asyncio.gather(*appends)
    assert [texts(log, conversation_id) for conversation_id in conversation_ids] == [["a"]] * 20
