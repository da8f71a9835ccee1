"""State snapshots and the stream cache."""

import asyncio
from datetime import UTC, datetime

import psycopg

from domain.commands import DescribeConversation, ReopenConversation
from domain.conversation import Conversation, fold
from infrastructure.event_log.streams import (
    SNAPSHOT_EVERY,
    SNAPSHOT_FORMAT_BYTE,
    Stream,
    StreamCache,
    from_snapshot,
    to_snapshot,
)
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.event_log.appending import append_texts, open_log, request, start, texts
from tests.log import Log


def stream(version: int, instructions: str = "", tenant: str = "acme") -> Stream:
    state = Conversation(
        id="conv_1", tenant=tenant, owner="ann", version=version, family="conv_1", instructions=instructions
    )
    return Stream(state, 7, datetime(2026, 1, 1, tzinfo=UTC), b"\x01" * 32)


def test_a_decoded_snapshot_is_the_same_stream() -> None:
    decoded = from_snapshot(to_snapshot(stream(300)))
    assert decoded is not None
    assert decoded.state == stream(300).state
    assert (decoded.position, decoded.recorded_at, decoded.chain_hash) == (7, stream(300).recorded_at, b"\x01" * 32)
    assert decoded.snapshotted == 300
    assert not decoded.needs_snapshot


def test_a_snapshot_in_another_format_is_ignored() -> None:
    for state in (b"", b"\x02whatever", SNAPSHOT_FORMAT_BYTE + b"junk", SNAPSHOT_FORMAT_BYTE + b"\x80"):
        assert from_snapshot(state) is None


def test_a_full_cache_evicts_the_least_recently_used_streams() -> None:
    cache = StreamCache(max_bytes=100_000)
    first, second = ("acme", mint("conv")), ("acme", mint("conv"))
    cache.put(first, stream(1))
    cache.put(second, stream(1))
    for _ in range(30):
        cache.put(("acme", mint("conv")), stream(1, "x" * 1000))
        cache.get(first)
    assert cache.get(first) is not None
    assert cache.get(second) is None
    assert len(cache) < 30
    cache.put(second, stream(1, "x" * 1_000_000))
    assert cache.get(second) is not None


def test_large_streams_evict_only_streams_of_their_tenant() -> None:
    cache = StreamCache(max_bytes=100_000)
    small, large = ("other", mint("conv")), [("acme", mint("conv")) for _ in range(30)]
    cache.put(small, stream(1, tenant="other"))
    for name in large:
        cache.put(name, stream(1, "x" * 1000))
    assert cache.get(small) is not None
    assert cache.get(large[-1]) is not None
    assert cache.get(large[0]) is None


async def long_conversation(settings: Settings, appends: int) -> str:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        await events.append(request(conversation_id, DescribeConversation(title="decoded")))
        for n in range(0, appends, 50):
            await asyncio.gather(
                *(events.append(request(conversation_id, append_texts(f"{n + m}"))) for m in range(50))
            )
    return conversation_id


async def test_a_new_process_continues_a_stream_from_its_snapshot(settings: Settings, log: Log) -> None:
    conversation_id = await long_conversation(settings, 2 * SNAPSHOT_EVERY)
    [(version,)] = log.rows("SELECT originator_version FROM snapshots")
    assert version >= SNAPSHOT_EVERY
    async with open_log(settings.postgres_url) as events:
        appended = await events.append(request(conversation_id, append_texts("after")))
    assert appended.conversation == fold(log.events(conversation_id))
    assert texts(log, conversation_id)[-1] == "after"


async def test_streams_without_a_readable_snapshot_are_read_from_the_log(settings: Settings, log: Log) -> None:
    conversation_id = await long_conversation(settings, SNAPSHOT_EVERY + 50)
    for damage in (
        "DELETE FROM snapshots",
        "UPDATE snapshots SET state = '\\x02ff'",
        f"UPDATE snapshots SET state = '\\x{SNAPSHOT_FORMAT_BYTE.hex()}ff'",
    ):
        with psycopg.connect(settings.postgres_url) as connection:
            connection.execute(damage)
        async with open_log(settings.postgres_url) as events:
            appended = await events.append(request(conversation_id, append_texts("more")))
        assert appended.conversation == fold(log.events(conversation_id))
    assert log.versions(conversation_id) == list(range(1, len(log.versions(conversation_id)) + 1))


async def test_a_snapshot_has_the_position_of_its_last_event(settings: Settings) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        last = await events.append(request(conversation_id, append_texts(*(str(n) for n in range(260)))))
        unchanged = await events.append(request(conversation_id, ReopenConversation()))
        assert unchanged.position == last.position
    async with open_log(settings.postgres_url) as events:
        assert (await events.append(request(conversation_id, ReopenConversation()))).position == last.position
