"""The one round trip: whatever its answer suffers, nothing is appended twice, and nobody is told what is not so."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest

from domain.commands import ReopenConversation
from infrastructure.event_log import recorder, writer
from infrastructure.event_log.append_request import Appended, IdempotencyKey, KeyReused, LogUnavailable
from infrastructure.event_log.chain import GENESIS, chain_hash, sized
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.event_log.meddling import Meddling, meddling
from tests.event_log.test_log import opened, say, start, texts, work
from tests.event_log.test_reviewed import keyed
from tests.log import Log


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 1.0)


async def told(append: Awaitable[Appended]) -> str:
    """What a caller learns."""
    try:
        return f"appended {(await append).version}"
    except LogUnavailable as error:
        return "unknown" if error.outcome_unknown else "not appended"
    except Exception as error:  # noqa: BLE001 - its name is what is told
        return type(error).__name__


def chain_holds(log: Log) -> bool:
    rows = log.rows(
        "SELECT originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject, command_id,"
        " correlation_id, chain_hash FROM events ORDER BY originator_id, originator_version"
    )
    names = ("originator_id", "version", "topic", "state", "tenant", "item_id", "recorded_at", "subject", "command_id")
    hashes = {(row[0], row[1]): row[10] for row in rows}
    return all(
        chain_hash(
            hashes.get((row[0], row[1] - 1), GENESIS),
            sized(**dict(zip((*names, "correlation_id"), row[:10], strict=True))),
        )
        == row[10]
        for row in rows
    )


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("late", ["positions", "nothing, for the stream moved on", "an error"])
async def test_an_answer_of_one_append_is_never_taken_for_anothers(settings: Settings, log: Log, late: str) -> None:
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events, opened(settings.postgres_url) as other:
            one, next_one = await start(events), await start(events)
            if late.startswith("nothing"):
                await other.append(work(one, say("other")))
            proxy.meddle(Meddling.READY_IS_LOST)
            await told(events.append(work(one, say("x"), correlation_id="\0" if late == "an error" else "r")))
            answers = await asyncio.gather(*(events.append(work(next_one, say(text))) for text in ("a", "b")))
    assert proxy.met == 1
    assert texts(log, next_one) == ["a", "b"]
    stored = dict(log.rows("SELECT originator_version, notification_id FROM events WHERE originator_version > 1"))
    assert [answer.version for answer in answers] == [2, 3]
    assert answers[1].position == stored[3]
    assert chain_holds(log)


async def test_what_the_library_says_of_its_own_settles_nothing(settings: Settings, log: Log) -> None:
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            one, other = await start(events), await start(events)
            proxy.meddle(Meddling.READY_IS_GARBLED)
            answers = await asyncio.gather(
                told(events.append(work(one, say("x")))), told(events.append(work(other, say("y"))))
            )
    assert set(answers) == {"appended 2"}
    assert texts(log, one) == ["x"]
    assert texts(log, other) == ["y"]


async def test_a_word_that_answers_nothing_leaves_nobody_waiting(settings: Settings, log: Log) -> None:
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            one = await start(events)
            proxy.meddle(Meddling.READY_COMES_TWICE)
            async with asyncio.timeout(8):
                answers = [await told(events.append(work(one, say(text)))) for text in ("x", "y")]
    assert proxy.met == 1
    assert answers == ["appended 2", "appended 3"]
    assert texts(log, one) == ["x", "y"]


async def test_an_append_that_comes_late_is_the_one_that_is_answered(settings: Settings, log: Log) -> None:
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            one = await start(events)
            proxy.meddle(Meddling.LATE)
            proxy.lose_insert = True
            assert await told(events.append(work(one, say("x")))) == "appended 2"
            assert proxy.done.is_set()
            assert await told(events.append(work(one, say("y")))) == "appended 3"
    assert texts(log, one) == ["x", "y"]
    assert chain_holds(log)


@pytest.mark.usefixtures("impatient")
async def test_an_append_that_may_still_come_is_not_said_to_have_failed(settings: Settings, log: Log) -> None:
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            one = await start(events)
            proxy.meddle(Meddling.LATE)
            proxy.lose_look = True
            assert await told(events.append(work(one, say("x")))) == "unknown"
            proxy.release.set()
            assert await asyncio.to_thread(proxy.done.wait, 10)
            proxy.down = False
    assert texts(log, one) == ["x"]


async def test_a_process_that_stops_in_front_of_its_commit_keeps_the_turn_from_others_for_a_while_only(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "TRANSACTION_SECONDS", 2)
    with meddling(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            one = await start(events)
            async with opened(settings.postgres_url) as other:
                another = await start(other)
                proxy.meddle(Meddling.SYNC_IS_LOST)
                stopped = asyncio.create_task(told(events.append(work(one, say("x")))))
                async with asyncio.timeout(10):
                    while not proxy.met:  # noqa: ASYNC110 - another thread makes it true
                        await asyncio.sleep(0.01)
                assert await told(other.append(work(another, say("y")))) == "appended 2"
            await stopped
    assert texts(log, another) == ["y"]


async def test_a_snapshot_knows_the_position_it_stands_at(settings: Settings) -> None:
    async with opened(settings.postgres_url) as events:
        one = await start(events)
        last = await events.append(work(one, say(*(str(n) for n in range(260)))))
        assert (await events.append(work(one, ReopenConversation()))).position == last.position
    async with opened(settings.postgres_url) as events:
        assert (await events.append(work(one, ReopenConversation()))).position == last.position


async def test_readers_know_no_expired_keys(settings: Settings) -> None:
    now = [datetime.now(UTC) - timedelta(hours=2)]
    async with opened(settings.postgres_url, lambda: now[0]) as events:
        await events.append(work(await start(events), say("x"), **keyed("k")))
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool)
    since = now[0] + timedelta(hours=1)
    assert await reader.first_answer("acme", IdempotencyKey("k", b"other"), since) is None
    assert await reader.first_answer("acme", IdempotencyKey("k", b"f"), now[0]) is not None
    with pytest.raises(KeyReused):
        await reader.first_answer("acme", IdempotencyKey("k", b"other"), now[0])
    await pool.close()


@pytest.mark.usefixtures("impatient")
async def test_a_host_that_can_not_be_is_an_event_store_that_is_away() -> None:
    events = EventLog("postgresql://postgres@postgres..local/nothing", Metrics())
    events.open()
    assert await told(events.append(work(mint("conv"), say("x")))) == "not appended"
    await events.close()


async def test_keys_are_text_whatever_the_url_says_of_encodings(settings: Settings, log: Log) -> None:
    async with opened(settings.postgres_url + "?client_encoding=LATIN1") as events:
        one = await start(events)
        answers = [await events.append(work(one, say("x"), **keyed("é 😀"))) for _ in range(2)]
    assert [answer.replayed for answer in answers] == [False, True]
    assert log.rows("SELECT key FROM idempotency_keys") == [("é 😀",)]
