"""The log moves back while processes run: a backup is restored, or rows are removed by hand."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Cursor

from domain.commands import EndConversation, PinItem
from domain.conversation import fold
from domain.errors import ConversationNotFound, ItemNotFound
from infrastructure.event_log.append_request import Appended, LogUnavailable
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import Row
from infrastructure.event_log.streams import SNAPSHOT_EVERY, Stream, from_snapshot, to_snapshot
from infrastructure.ids import uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.event_log.appending import append_texts, open_log, request, start, texts, with_key
from tests.event_log.commit_cutting_proxy import cutting_proxy
from tests.event_log.counting_recorder import counting_recorder
from tests.event_log.test_append_faults import chain_is_valid
from tests.fixtures.postgres_tools import dump_custom, restore_over
from tests.log import Log
from tests.servers import wait_until_async


@contextmanager
def execute(settings: Settings, sql: str, *parameters: Any) -> Iterator[None]:
    """Executes the statement. Commits at the end of the block."""
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute(sql.encode(), parameters)
        yield


def remove_rows(settings: Settings, conversation_id: str, where: str) -> None:
    with execute(settings, f"DELETE FROM events WHERE originator_id = %s AND {where}", uuid_of(conversation_id)):
        pass


def is_whole(log: Log, conversation_id: str, versions: int) -> bool:
    return log.versions(conversation_id) == list(range(1, versions + 1)) and chain_is_valid(log)


async def append(events: EventLog, conversation_id: str, *items: str) -> Appended:
    return await events.append(request(conversation_id, append_texts(*items)))


def lost(metrics: Metrics) -> dict[str, float]:
    """The metric `streams_lost`, by source."""
    return {
        sample.labels["source"]: sample.value for family in metrics.streams_lost.collect() for sample in family.samples
    }


async def test_after_a_restore_appends_continue_without_a_gap(settings: Settings, log: Log, tmp_path: Path) -> None:
    metrics = Metrics()
    async with open_log(settings.postgres_url, metrics=metrics) as events:
        conversation_id = await start(events)
        await append(events, conversation_id, *(f"kept {n}" for n in range(13)))
        dump_custom(settings.postgres_url, tmp_path / "backup")
        for n in range(30):
            await append(events, conversation_id, f"lost {n}")
        restore_over(settings.postgres_url, tmp_path / "backup")
        answers = [await append(events, conversation_id, f"new {n}") for n in range(30)]
    assert [answer.version for answer in answers] == list(range(15, 45))
    assert is_whole(log, conversation_id, 44)
    assert texts(log, conversation_id) == [f"kept {n}" for n in range(13)] + [f"new {n}" for n in range(30)]
    assert answers[-1].conversation == fold(log.events(conversation_id))
    assert lost(metrics) == {"memory": 1, "snapshot": 0}


@pytest.mark.parametrize("restored", [False, True], ids=["rows removed", "restored"])
@pytest.mark.parametrize("grown", [1, 2, 4], ids=["less", "exactly", "more"])
async def test_a_stream_is_read_again_if_the_log_lost_rows_and_grew(
    settings: Settings, log: Log, tmp_path: Path, grown: int, restored: bool
) -> None:
    async with open_log(settings.postgres_url) as one, open_log(settings.postgres_url) as other:
        conversation_id = await start(one)
        dump_custom(settings.postgres_url, tmp_path / "backup")
        await append(one, conversation_id, "lost", "also lost")
        if restored:
            restore_over(settings.postgres_url, tmp_path / "backup")
        else:
            remove_rows(settings, conversation_id, "originator_version > 1")
        await append(other, conversation_id, *"abcd"[:grown])
        appended = await append(one, conversation_id, "last")
    assert appended.version == grown + 2
    assert appended.conversation == fold(log.events(conversation_id))
    assert is_whole(log, conversation_id, grown + 2)
    assert texts(log, conversation_id) == [*"abcd"[:grown], "last"]


async def test_after_a_restore_appends_take_one_round_trip_again(settings: Settings, tmp_path: Path) -> None:
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        conversation_id = await start(events)
        dump_custom(settings.postgres_url, tmp_path / "backup")
        restore_over(settings.postgres_url, tmp_path / "backup")
        await append(events, conversation_id, "finds that the function was replaced")
        locked = counts.locked
        for _ in range(5):
            await append(events, conversation_id, "x")
    assert counts.locked == locked > 0


@pytest.mark.parametrize("command", ["refused", "unchanged", "with an item"])
async def test_commands_are_decided_on_the_log_and_not_on_the_cached_state(settings: Settings, command: str) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        await append(events, conversation_id, "kept")
        item = append_texts("lost")
        await events.append(request(conversation_id, item))
        await events.append(request(conversation_id, EndConversation()))
        remove_rows(settings, conversation_id, "originator_version > 2")
        if command == "refused":
            assert (await append(events, conversation_id, "new")).version == 3
        elif command == "unchanged":
            ended = await events.append(request(conversation_id, EndConversation()))
            assert (ended.version, ended.conversation.status) == (3, "ended")
        else:
            with pytest.raises(ItemNotFound):
                await events.append(request(conversation_id, PinItem(item_id=item.items[0].item_id)))


async def test_a_conversation_that_lost_all_its_rows_is_not_found(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        remove_rows(settings, conversation_id, "true")
        for _ in range(2):
            with pytest.raises(ConversationNotFound):
                await append(events, conversation_id, "new")
    assert log.count() == 0


async def test_after_rows_in_the_middle_are_removed_the_stream_continues_at_its_end(
    settings: Settings, log: Log
) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        await append(events, conversation_id, *"abcde")
        remove_rows(settings, conversation_id, "originator_version IN (3, 4)")
        assert (await append(events, conversation_id, "f")).version == 7
    async with open_log(settings.postgres_url) as events:
        assert (await append(events, conversation_id, "g")).version == 8
    assert log.versions(conversation_id) == [1, 2, 5, 6, 7, 8]


async def test_appends_to_many_conversations_that_lost_rows_are_stored_once(settings: Settings, log: Log) -> None:
    metrics = Metrics()
    async with open_log(settings.postgres_url, metrics=metrics) as events:
        conversation_ids = [await start(events) for _ in range(30)]
        for conversation_id in conversation_ids:
            await append(events, conversation_id, "one", "two")
        for conversation_id in conversation_ids[::3]:
            remove_rows(settings, conversation_id, "originator_version = 3")
        answers = await asyncio.gather(
            *(append(events, conversation_id, f"{n}") for conversation_id in conversation_ids for n in range(3))
        )
    assert len(answers) == 90
    for number, conversation_id in enumerate(conversation_ids):
        assert is_whole(log, conversation_id, 5 if number % 3 == 0 else 6)
    assert lost(metrics)["memory"] == 10


async def test_appends_during_restores_end_and_the_log_is_whole(settings: Settings, log: Log, tmp_path: Path) -> None:
    outcomes: list[type] = []
    restored = asyncio.Event()

    async def keep_appending(events: EventLog, conversation_id: str) -> None:
        more = 5
        while more:
            more -= restored.is_set()
            try:
                outcomes.append(type(await append(events, conversation_id, "x")))
            except LogUnavailable as error:
                outcomes.append(type(error))

    async with open_log(settings.postgres_url) as one, open_log(settings.postgres_url) as other:
        conversation_ids = [await start(one) for _ in range(8)]
        dump_custom(settings.postgres_url, tmp_path / "backup")
        writers = [
            asyncio.create_task(keep_appending(events, conversation_id))
            for conversation_id in conversation_ids
            for events in (one, other)
        ]
        for _ in range(3):
            await wait_until_async(lambda: log.count() > 60, 20, "appends")
            await asyncio.to_thread(restore_over, settings.postgres_url, tmp_path / "backup")
        restored.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*writers)
        last = [await append(one, conversation_id, "last") for conversation_id in conversation_ids]
    assert set(outcomes) <= {Appended, LogUnavailable}
    for conversation_id, appended in zip(conversation_ids, last, strict=True):
        assert is_whole(log, conversation_id, appended.version)
        assert appended.conversation == fold(log.events(conversation_id))


async def test_an_append_whose_answer_and_rows_are_lost_is_appended_again(settings: Settings, log: Log) -> None:
    class RemovesRows(ConversationRecorder):
        removed: Sequence[Row] = ()

        def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
            if not self.removed:
                self.removed = rows
                curs.execute("DELETE FROM events WHERE originator_version > 1")
                curs.execute("COMMIT; BEGIN; LOCK TABLE append_turn IN EXCLUSIVE MODE")
            return super().positions_of(curs, rows)

    with cutting_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url, recorder_type=RemovesRows) as events:
            conversation_id = await start(events)
            await append(events, conversation_id, "lost")
            proxy.lose_commits(1)
            appended = await append(events, conversation_id, "kept")
    assert proxy.lost == 1
    assert appended.version == 2
    assert texts(log, conversation_id) == ["kept"]
    assert is_whole(log, conversation_id, 2)


async def test_a_lost_answer_with_some_rows_removed_has_an_unknown_outcome(settings: Settings, log: Log) -> None:
    class RemovesOneRow(ConversationRecorder):
        def positions_of(self, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
            curs.execute(
                "DELETE FROM events WHERE originator_id = %s AND originator_version = %s",
                (rows[0].originator_id, rows[0].originator_version),
            )
            curs.execute("COMMIT; BEGIN; LOCK TABLE append_turn IN EXCLUSIVE MODE")
            return super().positions_of(curs, rows)

    with cutting_proxy(settings.postgres_url) as proxy:
        async with open_log(proxy.url, recorder_type=RemovesOneRow) as events:
            one, other = await start(events), await start(events)
            proxy.lose_commits(1)
            answers = await asyncio.gather(append(events, one, "x"), append(events, other, "y"), return_exceptions=True)
            assert all(isinstance(answer, LogUnavailable) and answer.outcome_unknown for answer in answers)
            assert (await append(events, one, "after")).version == 2
            assert (await append(events, other, "after")).version == 3
    assert is_whole(log, one, 2)
    assert is_whole(log, other, 3)


async def test_a_key_whose_events_are_lost_counts_as_new(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        for _ in range(2):
            appended = await events.append(request(conversation_id, append_texts("a"), **with_key("k")))
            assert (appended.version, appended.replayed) == (2, False)
            repeated = await events.append(request(conversation_id, append_texts("a"), **with_key("k")))
            assert (repeated.version, repeated.replayed) == (2, True)
            remove_rows(settings, conversation_id, "originator_version = 2")
    assert log.rows("SELECT count(*) FROM idempotency_keys") == [(1,)]


async def test_an_append_waits_for_a_transaction_that_removes_rows(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        await append(events, conversation_id, "lost")
        with execute(
            settings,
            "DELETE FROM events WHERE originator_id = %s AND originator_version = 2",
            uuid_of(conversation_id),
        ):
            appending = asyncio.create_task(append(events, conversation_id, "new"))
            waiting = "SELECT FROM pg_locks WHERE relation = 'append_turn'::regclass AND NOT granted"
            await wait_until_async(lambda: log.rows(waiting), 10, "the append to wait for its turn")
        assert (await appending).version == 2
    assert texts(log, conversation_id) == ["new"]


def store_snapshot(settings: Settings, conversation_id: str, stream: Stream) -> None:
    with execute(
        settings,
        "INSERT INTO snapshots VALUES (%s, %s, %s) ON CONFLICT (originator_id) DO UPDATE SET"
        " originator_version = excluded.originator_version, state = excluded.state",
        *(uuid_of(conversation_id), stream.state.version, to_snapshot(stream)),
    ):
        pass


@pytest.mark.parametrize("differs", ["is ahead of the log", "has another hash"])
async def test_a_snapshot_that_does_not_match_the_log_is_deleted(settings: Settings, log: Log, differs: str) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        await append(events, conversation_id, *(f"{n}" for n in range(SNAPSHOT_EVERY)))
    [(state,)] = log.rows("SELECT state FROM snapshots")
    stream = from_snapshot(state)
    assert stream is not None
    if differs == "is ahead of the log":
        remove_rows(settings, conversation_id, f"originator_version > {SNAPSHOT_EVERY}")
    else:
        changed = Stream(stream.state, stream.position, stream.recorded_at, b"\x01" * 32)
        store_snapshot(settings, conversation_id, changed)
    last = log.versions(conversation_id)[-1]
    metrics = Metrics()
    async with open_log(settings.postgres_url, metrics=metrics) as events:
        appended = await append(events, conversation_id, "new")
    assert appended.version == last + 1
    assert appended.conversation == fold(log.events(conversation_id))
    assert is_whole(log, conversation_id, last + 1)
    assert lost(metrics) == {"memory": 0, "snapshot": 1}
    assert log.rows("SELECT count(*) FROM snapshots WHERE originator_version > %s", last + 1) == [(0,)]
