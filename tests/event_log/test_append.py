"""Each append is stored once, completely and in one order."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from domain.commands import EndConversation, PinItem, RetractItem
from domain.errors import ConversationNotFound, ItemNotFound
from domain.events import ItemAppended
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import Appended, LogBusy, VersionMismatch
from infrastructure.event_log.chain import GENESIS, chain_hash, length_prefixed
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.queue import MAX_QUEUED_COMMANDS, MAX_SHARE
from infrastructure.event_log.rows import chained_row
from infrastructure.ids import mint, mint_uuid, uuid_of
from infrastructure.settings import Settings
from tests.event_log.appending import append_texts, open_log, request, start, texts, with_key
from tests.event_log.commit_cutting_proxy import cutting_proxy
from tests.log import Log


async def test_versions_of_two_writers_have_one_order_and_no_gaps(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as one, open_log(settings.postgres_url) as other:
        conversation_id = await start(one)
        answers = await asyncio.gather(
            *((one, other)[n % 2].append(request(conversation_id, append_texts(f"{n}"))) for n in range(200))
        )
    assert log.versions(conversation_id) == list(range(1, 202))
    assert sorted(texts(log, conversation_id), key=int) == [str(n) for n in range(200)]
    rows = log.rows("SELECT notification_id, originator_version FROM events ORDER BY notification_id")
    assert [version for _, version in rows] == list(range(1, 202))
    stored = {version: position for position, version in rows}
    assert all(stored[answer.version] == answer.position for answer in answers)


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
@pytest.mark.parametrize("locked", [False, True], ids=["in one round trip", "under the lock"])
async def test_a_commit_whose_answer_is_lost_is_found_and_not_repeated(
    settings: Settings, log: Log, keyed: bool, locked: bool
) -> None:
    def keys(text: str) -> dict[str, Any]:
        return with_key(text) if keyed else {}

    with cutting_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url) as events:
            conversation_id = await start(events)
            first = await events.append(request(conversation_id, append_texts("first")))
            [item] = first.events
            assert isinstance(item, ItemAppended)
            pin = request(conversation_id, PinItem(item_id=item.item_id))
            await events.append(pin)
            for n in range(5):
                proxy.lose_commits(1)
                # A command that names an item is decided under the lock, with the other commands of its conversation.
                pins = [pin] if locked else []
                answers = await asyncio.gather(
                    *(
                        events.append(request(conversation_id, append_texts(f"{n}-{m}"), **keys(f"{n}-{m}")))
                        for m in range(4)
                    ),
                    *map(events.append, pins),
                    return_exceptions=True,
                )
                stored = dict(
                    log.rows(
                        "SELECT originator_version, notification_id FROM events WHERE originator_id = %s",
                        uuid_of(conversation_id),
                    )
                )
                appended = [answer for answer in answers if isinstance(answer, Appended)]
                assert [stored[answer.version] for answer in appended] == [answer.position for answer in appended]
        assert proxy.lost == 5
    assert sorted(texts(log, conversation_id)) == sorted(["first", *(f"{n}-{m}" for n in range(5) for m in range(4))])
    assert log.versions(conversation_id) == list(range(1, 24))


async def test_random_cuts_of_connections_lose_and_repeat_no_append(
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
            await events.append(request(conversation_id, append_texts(f"{writer}-{n}")))

    await asyncio.gather(cut(), *(append(writer) for writer in range(8)))
    stored = texts(log, conversation_id)
    assert len(stored) == len(set(stored)) == 200
    for writer in range(8):
        own = [text for text in stored if text.startswith(f"{writer}-")]
        assert own == [f"{writer}-{n}" for n in range(25)]


async def test_recorded_times_do_not_go_back_and_the_hash_covers_each_field(settings: Settings, log: Log) -> None:
    times = iter([datetime(2026, 1, 1, 0, 0, n, 123_456, tzinfo=UTC) for n in (5, 3, 9, 1, 1, 1)])
    async with open_log(settings.postgres_url, lambda: next(times)) as events:
        conversation_id = await start(events)
        for text in ("a", "b", "c"):
            await events.append(request(conversation_id, append_texts(text)))
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
        fields: dict[str, Any] = {
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
        assert chain_hash(previous, length_prefixed(**fields)) == stored
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
            assert chain_hash(previous, length_prefixed(**{**fields, name: value})) != stored, name
        previous = stored


def test_both_times_of_a_repeated_hour_are_stored_in_utc() -> None:
    fields: dict[str, Any] = {"version": 1, "topic": "", "state": b"", "tenant": "", "item_id": None, "subject": ""}
    fields |= {"originator_id": mint_uuid(), "command_id": None, "correlation_id": ""}
    summer = datetime(2025, 10, 26, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    for shown in (summer, summer.replace(fold=1)):
        local, in_utc = (chained_row(GENESIS, recorded_at=time, **fields) for time in (shown, shown.astimezone(UTC)))
        assert local == in_utc
        assert local.recorded_at.utcoffset() == timedelta(0)


async def test_refused_commands_of_a_batch_do_not_stop_its_other_commands(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        events.append(request(conversation_id, append_texts("a"))),
        events.append(request(mint("conv"), append_texts("nowhere"))),
        events.append(request(conversation_id, RetractItem(item_id=mint("msg")))),
        events.append(request(conversation_id, append_texts("late"), if_match=frozenset({77}))),
        events.append(request(conversation_id, append_texts("b"))),
        events.append(request(conversation_id, append_texts("not mine"), principal=Principal("other", "eve", SCOPES))),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [Appended, ConversationNotFound, ItemNotFound, VersionMismatch, Appended, ConversationNotFound]
    assert texts(log, conversation_id) == ["a", "b"]


async def test_a_command_that_postgres_rejects_fails_alone(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        events.append(request(conversation_id, append_texts("a"))),
        events.append(request(conversation_id, append_texts("b"), correlation_id="\0")),
        events.append(request(conversation_id, append_texts("c"))),
        return_exceptions=True,
    )
    assert [isinstance(answer, Appended) for answer in answers] == [True, False, True]
    assert texts(log, conversation_id) == ["a", "c"]


async def test_a_tenant_whose_share_of_the_queue_is_full_gets_refusals(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(
        *(events.append(request(conversation_id, append_texts(f"{n}"))) for n in range(2 * MAX_QUEUED_COMMANDS)),
        return_exceptions=True,
    )
    appended = [answer for answer in answers if isinstance(answer, Appended)]
    assert {type(answer) for answer in answers} == {Appended, LogBusy}
    assert len(texts(log, conversation_id)) == len(appended) >= MAX_SHARE * MAX_QUEUED_COMMANDS


async def test_an_append_is_stored_although_its_caller_is_cancelled(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    cancelled = asyncio.create_task(events.append(request(conversation_id, append_texts("before"))))
    await asyncio.sleep(0)
    cancelled.cancel()
    await events.append(request(conversation_id, append_texts("after")))
    assert texts(log, conversation_id) == ["before", "after"]


async def test_eighteen_megabytes_at_once_are_appended(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    await asyncio.gather(
        *(events.append(request(conversation_id, append_texts("x" * 900_000), size=900_000)) for _ in range(20))
    )
    assert log.versions(conversation_id) == list(range(1, 22))


async def test_equal_commands_in_one_batch_get_the_same_position(
    events: EventLog,
) -> None:
    conversation_id = await start(events)
    answers = await asyncio.gather(*(events.append(request(conversation_id, EndConversation())) for _ in range(8)))
    assert len({answer.position for answer in answers}) == 1
    assert answers[0].position > 0
