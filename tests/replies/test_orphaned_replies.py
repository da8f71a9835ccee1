"""When a process dies, another process ends its replies."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import psycopg

from domain.commands import RequestReply, StartConversation
from domain.events import ReplyInterrupted, Shown
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint, mint_uuid, uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import Pool, make_pool
from replies.active_replies import GRACE_SECONDS, ActiveReplies
from replies.leases import ALIVE_SECONDS, Orphan, ReplyLeases
from replies.orphaned_replies import OrphanedReplies
from tests.commands.api_client import eventually
from tests.log import Log


async def request_replies(settings: Settings, owner: UUID, count: int = 1) -> list[str]:
    """Requests replies in the name of `owner`, which does not run them. Returns the conversations' ids."""
    events = EventLog(settings.postgres_url, Metrics(), owner=owner)
    events.open()
    conversations = [mint("conv") for _ in range(count)]
    for conversation_id in conversations:
        request = RequestReply(
            response_id=mint("resp"),
            model="m",
            parameters=b"{}",
            input=(),
            shown=Shown(version=0, ranges=(), budget=1, tokens=1, encoding="", renderer=2, request_sha256=b""),
            start=StartConversation(conversation_id=conversation_id, tenant=ANONYMOUS.tenant, owner="ann"),
        )
        append_request = AppendRequest(
            principal=ANONYMOUS,
            conversation_id=conversation_id,
            command=request,
            command_id=mint_uuid(),
            correlation_id="req_1",
        )
        await events.append(append_request)
    await events.close()
    return conversations


@asynccontextmanager
async def other_process(
    settings: Settings, *, owner: UUID | None = None, grace_seconds: float = GRACE_SECONDS
) -> AsyncIterator[Pool]:
    """Runs the part of a process that ends orphaned replies. Yields its Postgres pool."""
    pool = make_pool(settings.postgres_url, read_only=False)
    await pool.open(wait=True)
    client, events = redis.connect(settings, answer_seconds=0.5), EventLog(settings.postgres_url, Metrics())
    events.open()
    leases = ReplyLeases(pool, owner or mint_uuid())
    orphaned_replies = OrphanedReplies(leases, events, EventReader(pool), client, none_waits)
    look_up = EventReader(pool).head_of_each
    active_replies = ActiveReplies(leases, orphaned_replies, look_up, grace_seconds=grace_seconds)
    active_replies.open()
    try:
        yield pool
    finally:
        await active_replies.close()
        await events.close()
        await client.aclose()
        await pool.close()


async def none_waits(_: Orphan) -> bool:
    """No orphaned reply is taken over."""
    return False


async def until_ended(log: Log, conversation_id: str, seconds: float) -> None:
    await eventually(lambda: True if isinstance(log.events(conversation_id)[-1], ReplyInterrupted) else None, seconds)


async def test_orphaned_replies_are_ended_despite_an_unreadable_conversation(settings: Settings, log: Log) -> None:
    unreadable, lost, kept = await request_replies(settings, mint_uuid(), 3)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        make_unreadable = "UPDATE events SET state = '\\x0f'::bytea WHERE originator_id = %s"
        await connection.execute(make_unreadable, (uuid_of(unreadable),))
        await connection.execute("DELETE FROM events WHERE originator_id = %s", (uuid_of(lost),))
    still_running = "SELECT conversation_id FROM responses WHERE running"
    async with other_process(settings):
        await until_ended(log, kept, 3 * ALIVE_SECONDS)
        await eventually(lambda: True if log.rows(still_running) == [(uuid_of(unreadable),)] else None)
    assert log.versions(lost) == []


async def test_replies_of_living_processes_are_not_ended_after_postgres_was_blocked(
    settings: Settings, log: Log
) -> None:
    owner = mint_uuid()
    [conversation_id] = await request_replies(settings, owner)
    pool = make_pool(settings.postgres_url, read_only=False)
    await pool.open(wait=True)
    leases = ReplyLeases(pool, owner)

    async def renew_for(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while True:
                await leases.renew()
                await asyncio.sleep(0.5)

    async with other_process(settings):
        with suppress(TimeoutError):
            await renew_for(ALIVE_SECONDS + 2)
        async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
            await connection.execute("LOCK TABLE api_processes IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(ALIVE_SECONDS + 1)
        await asyncio.sleep(0.4)
        with suppress(TimeoutError):
            await renew_for(2)
        assert log.topics(conversation_id)[-1] == "reply.requested"
        await until_ended(log, conversation_id, 3 * ALIVE_SECONDS)
    await pool.close()


async def test_the_lease_is_renewed_in_time_while_redis_hangs(settings: Settings, log: Log) -> None:
    conversations = await request_replies(settings, mint_uuid(), 12)
    connections: list[asyncio.StreamWriter] = []

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    longest_delay, changed_at, last_beats = 0.0, time.monotonic(), log.rows("SELECT beat FROM api_processes")
    async with other_process(settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})):
        deadline = time.monotonic() + 60
        while any(log.topics(conversation_id)[-1] == "reply.requested" for conversation_id in conversations):
            assert time.monotonic() < deadline
            beats = log.rows("SELECT beat FROM api_processes")
            if beats != last_beats:
                last_beats, changed_at = beats, time.monotonic()
            longest_delay = max(longest_delay, time.monotonic() - changed_at)
            await asyncio.sleep(0.1)
    for writer in connections:
        writer.close()
    server.close()
    assert longest_delay < ALIVE_SECONDS / 2
