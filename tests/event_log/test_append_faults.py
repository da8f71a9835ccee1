"""Appends while connections, servers or our own code fail."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from eventsourcing.persistence import ProgrammingError
from psycopg import Cursor

from infrastructure.event_log.append_request import Appended, LogUnavailable
from infrastructure.event_log.chain import GENESIS, chain_hash, length_prefixed
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import Row
from infrastructure.ids import mint, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores.postgres_pipeline import PostgresPipeline
from tests.event_log.append_interfering_proxy import Interference, interfering_proxy
from tests.event_log.appending import append_texts, open_log, request, start, texts
from tests.event_log.commit_cutting_proxy import cutting_proxy
from tests.log import Log

SHORT_TIMEOUT_SECONDS = 1.0


async def outcome(append: Awaitable[Appended]) -> str:
    """`appended VERSION`, `unknown`, `not appended`, or the name of the error."""
    try:
        return f"appended {(await append).version}"
    except LogUnavailable as error:
        return "unknown" if error.outcome_unknown else "not appended"
    except Exception as error:  # noqa: BLE001 - any other error is returned by name
        return type(error).__name__


def chain_is_valid(log: Log) -> bool:
    rows = log.rows(
        "SELECT originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject, command_id,"
        " correlation_id, chain_hash FROM events ORDER BY originator_id, originator_version"
    )
    names = ("originator_id", "version", "topic", "state", "tenant", "item_id", "recorded_at", "subject", "command_id")
    hashes = {(row[0], row[1]): row[10] for row in rows}
    return all(
        chain_hash(
            hashes.get((row[0], row[1] - 1), GENESIS),
            length_prefixed(**dict(zip((*names, "correlation_id"), row[:10], strict=True))),
        )
        == row[10]
        for row in rows
    )


@pytest.mark.parametrize("late", ["positions", "nothing, because the stream moved", "an error"])
async def test_an_incomplete_answer_is_not_given_to_a_later_append(settings: Settings, log: Log, late: str) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with (
            open_log(proxy.url, append_timeout_seconds=SHORT_TIMEOUT_SECONDS) as events,
            open_log(settings.postgres_url) as other,
        ):
            one, next_one = await start(events), await start(events)
            if late.startswith("nothing"):
                await other.append(request(one, append_texts("other")))
            proxy.interfere(Interference.READY_IS_LOST)
            correlation_id = "\0" if late == "an error" else "r"
            await outcome(events.append(request(one, append_texts("x"), correlation_id=correlation_id)))
            answers = await asyncio.gather(
                *(events.append(request(next_one, append_texts(text))) for text in ("a", "b"))
            )
    assert proxy.interfered == 1
    assert texts(log, next_one) == ["a", "b"]
    rows = "SELECT notification_id FROM events WHERE originator_id = %s AND originator_version > 1 ORDER BY 1"
    assert [answer.version for answer in answers] == [2, 3]
    assert [(answer.position,) for answer in answers] == log.rows(rows, uuid_of(next_one))
    assert chain_is_valid(log)


async def test_the_outcome_is_looked_up_after_an_error_of_libpq(settings: Settings, log: Log) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url) as events:
            one, other = await start(events), await start(events)
            proxy.interfere(Interference.READY_IS_GARBLED)
            answers = await asyncio.gather(
                outcome(events.append(request(one, append_texts("x")))),
                outcome(events.append(request(other, append_texts("y")))),
            )
    assert set(answers) == {"appended 2"}
    assert texts(log, one) == ["x"]
    assert texts(log, other) == ["y"]


async def test_an_unexpected_message_of_postgres_leaves_no_caller_waiting(settings: Settings, log: Log) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url) as events:
            one = await start(events)
            proxy.interfere(Interference.READY_COMES_TWICE)
            async with asyncio.timeout(8):
                answers = [await outcome(events.append(request(one, append_texts(text)))) for text in ("x", "y")]
    assert proxy.interfered == 1
    assert answers == ["appended 2", "appended 3"]
    assert texts(log, one) == ["x", "y"]


async def test_a_late_append_that_is_decided_again_is_stored_once(settings: Settings, log: Log) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url) as events:
            one = await start(events)
            proxy.interfere(Interference.LATE)
            proxy.lose_insert = True
            assert await outcome(events.append(request(one, append_texts("x")))) == "appended 2"
            assert proxy.done.is_set()
            assert await outcome(events.append(request(one, append_texts("y")))) == "appended 3"
    assert texts(log, one) == ["x", "y"]
    assert chain_is_valid(log)


async def test_an_append_that_may_still_arrive_has_an_unknown_outcome(settings: Settings, log: Log) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url, append_timeout_seconds=SHORT_TIMEOUT_SECONDS) as events:
            one = await start(events)
            proxy.interfere(Interference.LATE)
            proxy.lose_select = True
            assert await outcome(events.append(request(one, append_texts("x")))) == "unknown"
            proxy.release.set()
            assert await asyncio.to_thread(proxy.done.wait, 10)
            proxy.down = False
    assert texts(log, one) == ["x"]


class ShortTransactions(ConversationRecorder):
    transaction_timeout_seconds = 2


async def test_a_process_that_stops_before_its_commit_keeps_the_lock_briefly(settings: Settings, log: Log) -> None:
    with interfering_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url, recorder_type=ShortTransactions) as events:
            one = await start(events)
            async with open_log(settings.postgres_url) as other:
                another = await start(other)
                proxy.interfere(Interference.SYNC_IS_LOST)
                stopped = asyncio.create_task(outcome(events.append(request(one, append_texts("x")))))
                async with asyncio.timeout(10):
                    while not proxy.interfered:  # noqa: ASYNC110 - another thread makes it true
                        await asyncio.sleep(0.01)
                assert await outcome(other.append(request(another, append_texts("y")))) == "appended 2"
            await stopped
    assert texts(log, another) == ["y"]


async def test_with_an_invalid_host_name_the_event_store_is_unavailable() -> None:
    events = EventLog(
        "postgresql://postgres@postgres..local/nothing", Metrics(), append_timeout_seconds=SHORT_TIMEOUT_SECONDS
    )
    events.open()
    assert await outcome(events.append(request(mint("conv"), append_texts("x")))) == "not appended"
    await events.close()


class FailsOneLookUp(ConversationRecorder):
    """The first look-up of an unknown outcome fails, although the connection works."""

    failed = False

    def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
        if not self.failed:
            self.failed = True
            raise ProgrammingError("cached plan must not change result type")
        return super().positions_of(curs, rows)


async def test_a_failed_look_up_of_an_outcome_stores_no_command_twice(settings: Settings, log: Log) -> None:
    with cutting_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url, recorder_type=FailsOneLookUp) as events:
            conversation_id = await start(events)
            proxy.lose_commits(1)
            answers = await asyncio.gather(
                *(events.append(request(conversation_id, append_texts(text))) for text in ("a", "b")),
                return_exceptions=True,
            )
    assert sorted(texts(log, conversation_id)) == ["a", "b"]
    assert all(
        isinstance(answer, Appended) or (isinstance(answer, LogUnavailable) and answer.outcome_unknown)
        for answer in answers
    )


@pytest.mark.parametrize("error", [None, MemoryError()], ids=["after the commit", "while the answer is awaited"])
async def test_a_failure_of_our_own_code_appends_nothing_twice(
    settings: Settings, log: Log, error: BaseException | None
) -> None:
    faulty = asyncio.Event()

    class Pipeline(PostgresPipeline):
        async def call(self, values: Sequence[Any], timeout_seconds: float) -> Any:
            answer = await super().call(values, timeout_seconds)
            if not faulty.is_set():
                return answer
            if error is not None:
                raise error
            return []

    class Recorder(ConversationRecorder):
        pipeline_type = Pipeline

    async with open_log(settings.postgres_url, recorder_type=Recorder) as events:
        conversation_id = await start(events)
        faulty.set()
        answers = await asyncio.gather(
            *(events.append(request(conversation_id, append_texts(text))) for text in ("a", "b")),
            return_exceptions=True,
        )
        assert all(isinstance(answer, LogUnavailable) and answer.outcome_unknown for answer in answers)
        faulty.clear()
        await events.append(request(conversation_id, append_texts("c")))
    assert texts(log, conversation_id) == ["a", "b", "c"]
