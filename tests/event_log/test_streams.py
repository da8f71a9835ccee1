"""Snapshots and memory: both may be lost, late or wrong in form, and only cost time."""

import asyncio
from datetime import UTC, datetime

import psycopg

from domain.commands import DescribeConversation
from domain.conversation import Conversation, fold
from infrastructure.event_log.streams import SNAPSHOT_EVERY, Stream, Streams, from_snapshot, to_snapshot
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.event_log.test_log import opened, say, start, texts, work
from tests.log import Log


def stream(version: int, instructions: str = "") -> Stream:
    state = Conversation(
        id="conv_1", tenant="acme", owner="ann", version=version, family="conv_1", instructions=instructions
    )
    return Stream(state, 7, datetime(2026, 1, 1, tzinfo=UTC), b"\x01" * 32)


def test_a_snapshot_comes_back_as_it_was_and_counts_as_taken() -> None:
    kept = from_snapshot(to_snapshot(stream(300)))
    assert kept is not None
    assert kept.state == stream(300).state
    assert (kept.position, kept.recorded_at, kept.chain_hash) == (7, stream(300).recorded_at, b"\x01" * 32)
    assert kept.snapshotted == 300
    assert not kept.wants_snapshot


def test_a_snapshot_of_another_form_is_none() -> None:
    for state in (b"", b"\x02whatever", b"\x01junk", b"\x01\x80"):
        assert from_snapshot(state) is None


def test_memory_is_bounded_in_bytes_and_keeps_what_was_used_last() -> None:
    streams = Streams(max_bytes=100_000)
    first, second = mint("conv"), mint("conv")
    streams.remember(first, stream(1))
    streams.remember(second, stream(1))
    for _ in range(30):
        streams.remember(mint("conv"), stream(1, "x" * 1000))
        streams.get(first)
    assert streams.get(first) is not None
    assert streams.get(second) is None
    assert len(streams) < 30
    streams.remember(second, stream(1, "x" * 1_000_000))
    assert streams.get(second) is not None


async def grown(settings: Settings, appends: int) -> str:
    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        await events.append(work(conversation_id, DescribeConversation(title="kept")))
        for n in range(0, appends, 50):
            await asyncio.gather(*(events.append(work(conversation_id, say(f"{n + m}"))) for m in range(50)))
    return conversation_id


async def test_a_cold_process_goes_on_from_a_snapshot_and_the_chain_with_it(settings: Settings) -> None:
    log = Log(settings.postgres_url)
    conversation_id = await grown(settings, 2 * SNAPSHOT_EVERY)
    [(version,)] = log.rows("SELECT originator_version FROM snapshots")
    assert version >= SNAPSHOT_EVERY
    async with opened(settings.postgres_url) as events:
        appended = await events.append(work(conversation_id, say("after")))
    assert appended.conversation == fold(log.events(conversation_id))
    assert texts(log, conversation_id)[-1] == "after"


async def test_snapshots_that_are_gone_unreadable_or_old_do_no_harm(settings: Settings) -> None:
    log = Log(settings.postgres_url)
    conversation_id = await grown(settings, SNAPSHOT_EVERY + 50)
    for harm in (
        "DELETE FROM snapshots",
        "UPDATE snapshots SET state = '\\x02ff'",
        "UPDATE snapshots SET state = '\\x01ff'",
    ):
        with psycopg.connect(settings.postgres_url) as connection:
            connection.execute(harm)
        async with opened(settings.postgres_url) as events:
            appended = await events.append(work(conversation_id, say("more")))
        assert appended.conversation == fold(log.events(conversation_id))
    assert log.versions(conversation_id) == list(range(1, len(log.versions(conversation_id)) + 1))
