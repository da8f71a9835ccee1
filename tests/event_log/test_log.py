"""Appending: once, whole, in one order, whatever happens to the connection, the clock or the company."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from domain.commands import AppendItems, Command, EndConversation, NewItem, RetractItem, StartConversation
from domain.errors import ConversationIsEnded, ConversationNotFound, ItemNotFound
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import (
    Appended,
    AppendRequest,
    IdempotencyKey,
    KeyReused,
    LogBusy,
    VersionMismatch,
)
from infrastructure.event_log.chain import GENESIS, chain_hash, sized
from infrastructure.event_log.log import EventLog, utc_now
from infrastructure.event_log.queue import WAITING_COMMANDS
from infrastructure.event_log.rows import chained_row
from infrastructure.ids import mint, mint_uuid, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.event_log.cutting import cutting
from tests.log import Log
from tests.queries.conftest import eventually

ANN = Principal("acme", "ann")


@asynccontextmanager
async def opened(url: str, clock: Callable[[], datetime] = utc_now, **options: Any) -> AsyncIterator[EventLog]:
    events = EventLog(url, Metrics(), clock, **options)
    events.open()
    yield events
    await events.close()


@pytest.fixture
async def events(settings: Settings) -> AsyncIterator[EventLog]:
    async with opened(settings.postgres_url) as log:
        yield log


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


def work(conversation_id: str, command: Command, **changes: Any) -> AppendRequest:
    facts: dict[str, Any] = {"principal": ANN, "command_id": mint_uuid(), "correlation_id": "req_1", **changes}
    return AppendRequest(conversation_id=conversation_id, command=command, **facts)


def say(*texts: str) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=mint("msg"), item=text.encode()) for text in texts), author="ann")


async def start(events: EventLog) -> str:
    conversation_id = mint("conv")
    command = StartConversation(conversation_id=conversation_id, tenant="acme", owner="ann")
    await events.append(work(conversation_id, command))
    return conversation_id


def texts(log: Log, conversation_id: str) -> list[str]:
    return [event.item.decode() for event in log.events(conversation_id) if hasattr(event, "item")]


async def test_two_writers_on_one_conversation_make_one_order_without_gaps(settings: Settings, log: Log) -> None:
    async with opened(settings.postgres_url) as one, opened(settings.postgres_url) as other:
        conversation_id = await start(one)
        answers = await asyncio.gather(
            *((one, other)[n % 2].append(work(conversation_id, say(f"{n}"))) for n in range(200))
        )
    assert log.versions(conversation_id) == list(range(1, 202))
    assert sorted(texts(log, conversation_id), key=int) == [str(n) for n in range(200)]
    rows = log.rows("SELECT notification_id, originator_version FROM events ORDER BY notification_id")
    assert [version for _, version in rows] == list(range(1, 202))
    stored = {version: position for position, version in rows}
    assert all(stored[answer.version] == answer.position for answer in answers)


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
@pytest.mark.parametrize("locked", [False, True], ids=["in one round trip", "under the lock"])
async def test_a_commit_whose_answer_is_lost_is_found_not_repeated(
    settings: Settings, log: Log, keyed: bool, locked: bool
) -> None:
    def keys(text: str) -> dict[str, Any]:
        return {"idempotency": IdempotencyKey(text, b"f"), "answer": lambda _: b"{}"} if keyed else {}

    with cutting(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            conversation_id = await start(events)
            ended = await start(events)
            await events.append(work(ended, EndConversation()))
            for n in range(5):
                proxy.lose_commits(1)
                alone_refused = [work(ended, say("no"))] if locked else []  # a batch with a refusal needs the lock
                answers = await asyncio.gather(
                    *(events.append(work(conversation_id, say(f"{n}-{m}"), **keys(f"{n}-{m}"))) for m in range(4)),
                    *map(events.append, alone_refused),
                    return_exceptions=True,
                )
                stored = dict(
                    log.rows(
                        "SELECT originator_version, notification_id FROM events WHERE originator_id = %s",
                        uuid_of(conversation_id),
                    )
                )
                assert [type(answer) for answer in answers[4:]] == [ConversationIsEnded] * locked
                made = [answer for answer in answers if isinstance(answer, Appended)]
                assert [stored[answer.version] for answer in made] == [answer.position for answer in made]
        assert proxy.lost == 5
    assert sorted(texts(log, conversation_id)) == sorted(f"{n}-{m}" for n in range(5) for m in range(4))
    assert log.versions(conversation_id) == list(range(1, 22))


async def test_connections_cut_at_any_moment_lose_and_double_nothing(
    events: EventLog, settings: Settings, log: Log
) -> None:
    conversation_id = await start(events)

    async def cut() -> None:
        async with await psycopg.AsyncConnection.connect(settings.postgres_url, autocommit=True) as connection:
            for _ in range(20):
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await connection.execute("SELECT pg_sleep(0.02)")

    async def append(writer: int) -> None:
        for n in range(25):
            await events.append(work(conversation_id, say(f"{writer}-{n}")))

    await asyncio.gather(cut(), *(append(writer) for writer in range(8)))
    said = texts(log, conversation_id)
    assert len(said) == len(set(said)) == 200
    for writer in range(8):
        mine = [text for text in said if text.startswith(f"{writer}-")]
        assert mine == [f"{writer}-{n}" for n in range(25)]


async def test_the_chain_covers_every_column_and_time_never_runs_back(settings: Settings, log: Log) -> None:
    times = iter([datetime(2026, 1, 1, 0, 0, n, 123_456, tzinfo=UTC) for n in (5, 3, 9, 1, 1, 1)])
    async with opened(settings.postgres_url, lambda: next(times)) as events:
        conversation_id = await start(events)
        for text in ("a", "b", "c"):
            await events.append(work(conversation_id, say(text)))
    columns = (
        "originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject, command_id,"
        " correlation_id, chain_hash"
    )
    rows = log.rows(f"SELECT {columns} FROM events ORDER BY originator_version")
    assert [row[6].second for row in rows] == [5, 5, 9, 9]
    previous = GENESIS
    for (
        stream,
        version,
        topic,
        state,
        tenant,
        item_id,
        recorded_at,
        subject,
        command_id,
        correlation_id,
        stored,
    ) in rows:
        facts: dict[str, Any] = {
            "originator_id": stream,
            "version": version,
            "topic": topic,
            "state": state,
            "tenant": tenant,
            "item_id": item_id,
            "recorded_at": recorded_at,
            "subject": subject,
            "command_id": command_id,
            "correlation_id": correlation_id,
        }
        assert chain_hash(previous, sized(**facts)) == stored
        changed = {
            "originator_id": mint_uuid(),
            "version": version + 1,
            "topic": topic + "x",
            "state": state + b"x",
            "tenant": tenant + "x",
            "item_id": "x" if item_id is None else None,
            "recorded_at": recorded_at + timedelta(microseconds=1),
            "subject": subject + "x",
            "command_id": None,
            "correlation_id": correlation_id + "x",
        }
        for name, value in changed.items():
            assert chain_hash(previous, sized(**{**facts, name: value})) != stored, name
        previous = stored


def test_given_two_times_that_a_clock_shows_alike_then_they_are_hashed_and_written_as_the_two_they_are() -> None:
    facts: dict[str, Any] = {"version": 1, "topic": "", "state": b"", "tenant": "", "item_id": None, "subject": ""}
    facts |= {"originator_id": mint_uuid(), "command_id": None, "correlation_id": ""}
    summer = datetime(2025, 10, 26, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    for shown in (summer, summer.replace(fold=1)):
        here, in_utc = (chained_row(GENESIS, recorded_at=it, **facts) for it in (shown, shown.astimezone(UTC)))
        assert (here.chain_hash, here.element) == (in_utc.chain_hash, in_utc.element)


async def test_what_is_refused_is_refused_alone(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        events.append(work(conversation_id, say("a"))),
        events.append(work(mint("conv"), say("nowhere"))),
        events.append(work(conversation_id, RetractItem(item_id=mint("msg")))),
        events.append(work(conversation_id, say("late"), if_match=frozenset({77}))),
        events.append(work(conversation_id, say("b"))),
        events.append(work(conversation_id, say("not mine"), principal=Principal("other", "eve"))),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [Appended, ConversationNotFound, ItemNotFound, VersionMismatch, Appended, ConversationNotFound]
    assert texts(log, conversation_id) == ["a", "b"]


async def test_a_command_the_database_can_not_take_fails_alone(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        events.append(work(conversation_id, say("a"))),
        events.append(work(conversation_id, say("b"), correlation_id="\0")),
        events.append(work(conversation_id, say("c"))),
        return_exceptions=True,
    )
    assert [isinstance(answer, Appended) for answer in answers] == [True, False, True]
    assert texts(log, conversation_id) == ["a", "c"]


async def test_a_key_answers_once_and_for_all_also_after_a_restart(settings: Settings, log: Log) -> None:
    key = IdempotencyKey("k", b"f")
    body = lambda appended: f"at {appended.version}".encode()  # noqa: E731
    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        first = await events.append(work(conversation_id, say("a"), idempotency=key, answer=body))
    async with opened(settings.postgres_url) as events:
        again = await events.append(work(conversation_id, say("a"), idempotency=key, answer=body))
        with pytest.raises(KeyReused):
            await events.append(work(conversation_id, say("x"), idempotency=IdempotencyKey("k", b"other"), answer=body))
        other = Principal("other", "eve")
        with pytest.raises(ConversationNotFound):
            await events.append(work(conversation_id, say("a"), idempotency=key, answer=body, principal=other))
    assert (first.answer, first.replayed) == (b"at 2", False)
    assert (again.answer, again.replayed, again.version, again.position) == (b"at 2", True, 2, first.position)
    assert texts(log, conversation_id) == ["a"]


async def test_a_key_is_kept_for_as_long_as_it_is_said_to_be(settings: Settings, log: Log) -> None:
    key, now = IdempotencyKey("k", b"f"), [utc_now()]
    async with opened(settings.postgres_url, lambda: now[0], keep_keys=timedelta(hours=2)) as events:
        conversation_id = await start(events)
        for hours_later, replayed in ((0, False), (1, True), (2, False), (1, True)):
            now[0] += timedelta(hours=hours_later)
            said = await events.append(
                work(conversation_id, say("a"), idempotency=key, answer=lambda a: b"%d" % a.version)
            )
            assert said.replayed is replayed
        other = IdempotencyKey("k", b"other")
        now[0] += timedelta(hours=3)
        assert not (
            await events.append(work(conversation_id, say("b"), idempotency=other, answer=lambda _: b""))
        ).replayed
    assert texts(log, conversation_id) == ["a", "a", "b"]


async def test_a_full_queue_refuses_at_once_and_loses_nothing_it_took(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        *(events.append(work(conversation_id, say(f"{n}"))) for n in range(3 * WAITING_COMMANDS)),
        return_exceptions=True,
    )
    taken = [answer for answer in answers if isinstance(answer, Appended)]
    assert {type(answer) for answer in answers} == {Appended, LogBusy}
    assert len(texts(log, conversation_id)) == len(taken) >= WAITING_COMMANDS


async def test_a_caller_that_goes_away_undoes_nothing(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    going = asyncio.create_task(events.append(work(conversation_id, say("said"))))
    await asyncio.sleep(0)
    going.cancel()
    await events.append(work(conversation_id, say("after")))
    assert texts(log, conversation_id) == ["said", "after"]


async def test_a_batch_of_eight_megabytes_goes_through(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    await asyncio.gather(*(events.append(work(conversation_id, say("x" * 900_000), size=900_000)) for _ in range(20)))
    assert log.versions(conversation_id) == list(range(1, 22))


async def test_expired_keys_are_swept(settings: Settings, log: Log) -> None:
    key = {"idempotency": IdempotencyKey("k", b"f"), "answer": lambda _: b"{}"}
    async with opened(settings.postgres_url) as events:
        await events.append(work(await start(events), say("a"), **key))
    assert log.rows("SELECT count(*) FROM idempotency_keys") == [(1,)]
    async with opened(settings.postgres_url, keep_keys=timedelta(0)):
        await eventually(lambda: log.rows("SELECT count(*) FROM idempotency_keys") == [(0,)])
