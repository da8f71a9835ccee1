"""When a process counts as dead, and what happens to its lease and its replies. Observers use their own clocks."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint_uuid, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import Pool, make_pool
from replies.leases import ALIVE_SECONDS, RENEW_SECONDS, ReplyLeases
from replies.orphaned_replies import OrphanedReplies
from tests.commands.api_client import eventually
from tests.log import Log
from tests.manual_clock import ManualClock
from tests.replies.test_orphaned_replies import none_waits, other_process, request_replies, until_ended

LOOKS = round(ALIVE_SECONDS / RENEW_SECONDS)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    pool = make_pool(settings.postgres_url, read_only=False)
    await pool.open(wait=True)
    yield pool
    await pool.close()


async def test_a_process_is_dead_after_its_beat_stood_still_for_alive_seconds(pool: Pool) -> None:
    clock, owner = ManualClock(), mint_uuid()
    leases, observer = ReplyLeases(pool, owner), ReplyLeases(pool, mint_uuid(), clock)
    await leases.renew()
    for _ in range(3):  # both processes were frozen for an hour
        assert (await observer.renew()).dead == set()
        clock.seconds += 3600
        await leases.renew()
    for _ in range(LOOKS):
        assert (await observer.renew()).dead == set()
        clock.seconds += RENEW_SECONDS
    assert (await observer.renew()).dead == {owner}
    await leases.renew()
    assert (await observer.renew()).dead == set()


async def test_a_process_that_never_renewed_is_dead_after_alive_seconds(settings: Settings, pool: Pool) -> None:
    clock, owner = ManualClock(), mint_uuid()
    await request_replies(settings, owner)
    observer = ReplyLeases(pool, mint_uuid(), clock)
    for _ in range(LOOKS):
        assert (await observer.renew()).dead == set()
        clock.seconds += RENEW_SECONDS
    assert (await observer.renew()).dead == {owner}
    await ReplyLeases(pool, owner).renew()
    assert (await observer.renew()).dead == set()


async def test_a_failed_renewal_of_an_observer_starts_the_time_over(pool: Pool) -> None:
    clock, owner = ManualClock(), mint_uuid()
    await ReplyLeases(pool, owner).renew()
    observer = ReplyLeases(pool, mint_uuid(), clock)
    for _ in range(2 * LOOKS):
        assert (await observer.renew()).dead == set()
        clock.seconds += 2 * RENEW_SECONDS
        async with pool.connection() as connection:
            await connection.execute("ALTER TABLE api_processes RENAME TO away")
            with pytest.raises(psycopg.Error):
                await observer.renew()
            await connection.execute("ALTER TABLE away RENAME TO api_processes")


async def test_the_lease_that_a_dead_process_left_behind_is_deleted(settings: Settings, pool: Pool, log: Log) -> None:
    await ReplyLeases(pool, mint_uuid()).renew()
    async with other_process(settings):
        await eventually(lambda: len(log.rows("SELECT FROM api_processes")) == 2 or None)
        await eventually(lambda: len(log.rows("SELECT FROM api_processes")) == 1 or None, 3 * ALIVE_SECONDS)
    assert log.rows("SELECT FROM api_processes") == []


async def test_replies_that_cannot_be_ended_do_not_delay_other_ends(settings: Settings, pool: Pool, log: Log) -> None:
    owner = mint_uuid()
    *unreadable, last = await request_replies(settings, owner, 3)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        make_unreadable = "UPDATE events SET state = '\\x0f'::bytea WHERE originator_id = ANY (%s)"
        await connection.execute(make_unreadable, ([uuid_of(conversation_id) for conversation_id in unreadable],))
    events, client = EventLog(settings.postgres_url, Metrics()), redis.connect(settings)
    events.open()
    reader = EventReader(pool)
    orphaned = OrphanedReplies(ReplyLeases(pool, mint_uuid()), events, reader, client, none_waits, max_orphans=2)
    for _ in range(2):
        await orphaned.end_some([owner], [])
    assert log.topics(last)[-1] == "reply.interrupted"
    await events.close()
    await client.aclose()


async def test_a_reply_unknown_to_its_process_is_ended_after_a_grace_period(settings: Settings, log: Log) -> None:
    owner = mint_uuid()
    [conversation_id] = await request_replies(settings, owner)
    async with other_process(settings, owner=owner, grace_seconds=2):
        await eventually(lambda: log.rows("SELECT FROM api_processes WHERE beat > 2") or None)
        assert log.topics(conversation_id)[-1] == "reply.requested"
        await until_ended(log, conversation_id, 10)
