"""Which commands are decided under the append lock, and how often uncached streams are read."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from domain.commands import EndConversation, PinItem, ReopenConversation, StartConversation
from domain.errors import ConversationNotFound, Refused
from infrastructure.event_log.append_request import Appended, AppendRequest, VersionMismatch
from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.stream_loader import MAX_PAGE_ROWS
from infrastructure.event_log.streams import StreamCache
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from tests.event_log.appending import append_texts, open_log, request, start, texts, with_key
from tests.event_log.counting_recorder import Counts, counting_recorder
from tests.log import Log

OTHERS = 5
"""Twice this many commands still fit into one batch."""


async def append_all(events: EventLog, requests: Sequence[AppendRequest]) -> list[Appended | BaseException]:
    """Appends all in one turn of the event loop, so that the requests make one batch."""
    return await asyncio.gather(*map(events.append, requests), return_exceptions=True)


@pytest.mark.parametrize("kind", ["refused", "unknown", "changes nothing", "names an item", "if_match"])
async def test_a_slow_command_takes_the_append_lock_only_if_it_appends(settings: Settings, log: Log, kind: str) -> None:
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        others = [await start(events) for _ in range(OTHERS)]
        slow = await start(events)
        item = append_texts("pinned")
        await events.append(request(slow, item))
        if kind == "refused":
            await events.append(request(slow, EndConversation()))
        special = {
            "refused": request(slow, append_texts("no")),
            "unknown": request(mint("conv"), append_texts("no")),
            "changes nothing": request(slow, ReopenConversation()),
            "names an item": request(slow, PinItem(item_id=item.items[0].item_id)),
            "if_match": request(slow, append_texts("no"), if_match=frozenset({7})),
        }[kind]
        before = Counts(counts.locked, counts.inserted)
        batch = [request(conversation_id, append_texts("yes")) for conversation_id in others]
        batch.insert(OTHERS // 2, special)
        answers = await append_all(events, batch)
    assert counts.locked == before.locked + (kind == "names an item")
    assert counts.inserted == before.inserted + (kind == "names an item")
    answer = answers.pop(OTHERS // 2)
    assert isinstance(answer, {"if_match": VersionMismatch, "refused": Refused, "unknown": Refused}.get(kind, Appended))
    assert all(isinstance(answer, Appended) for answer in answers)
    assert all(texts(log, conversation_id) == ["yes"] for conversation_id in others)


async def test_commands_around_a_refused_command_are_decided_in_order(settings: Settings, log: Log) -> None:
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        one, other = await start(events), await start(events)
        answers = await append_all(
            events,
            [
                request(one, append_texts("a")),
                request(other, append_texts("x")),
                request(one, EndConversation()),
                request(one, append_texts("refused")),
                request(one, ReopenConversation()),
                request(one, append_texts("b")),
            ],
        )
    assert [isinstance(answer, Appended) for answer in answers] == [True, True, True, False, True, True]
    assert (counts.locked, counts.inserted) == (1, 4)
    assert texts(log, one) == ["a", "b"]
    assert texts(log, other) == ["x"]


async def test_commands_with_the_key_of_a_refused_command_are_still_decided(settings: Settings, log: Log) -> None:
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        one, other, third = [await start(events) for _ in range(3)]
        answers = await append_all(
            events,
            [
                request(one, append_texts("no"), if_match=frozenset({7}), **with_key("k")),
                request(other, append_texts("first with the key"), **with_key("k")),
                request(other, append_texts("after it")),
                request(third, append_texts("apart"), **with_key("another key")),
                request(one, append_texts("repeated"), **with_key("k")),
            ],
        )
    assert isinstance(answers[0], VersionMismatch)
    replayed = [answer.replayed for answer in answers[1:] if isinstance(answer, Appended)]
    assert replayed == [False, False, False, True]
    assert (counts.locked, counts.inserted) == (1, 2)
    assert texts(log, one) == []
    assert texts(log, other) == ["first with the key", "after it"]
    assert texts(log, third) == ["apart"]


async def test_a_repeated_create_in_one_batch_starts_one_conversation(settings: Settings, log: Log) -> None:
    recorder, counts = counting_recorder()

    def create() -> AppendRequest:
        conversation_id = mint("conv")
        command = StartConversation(conversation_id=conversation_id, tenant="acme", owner="ann")
        return request(conversation_id, command, **with_key("create"))

    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        answers = await append_all(events, [create(), create(), create()])
        replayed = await append_all(events, [create()])
    assert [answer.replayed for answer in answers if isinstance(answer, Appended)] == [False, True, True]
    assert [answer.replayed for answer in replayed if isinstance(answer, Appended)] == [True]
    assert log.count() == 1
    assert (counts.locked, counts.reads) == (0, 1)  # the second batch makes the read, because its key is already used


async def test_uncached_and_unknown_conversations_are_read_together(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        cold = [await start(events) for _ in range(OTHERS)]
        await append_all(events, [request(conversation_id, append_texts("before")) for conversation_id in cold])
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        unknown = [mint("conv") for _ in range(OTHERS)]
        answers = await append_all(
            events, [request(conversation_id, append_texts("after")) for conversation_id in (*cold, *unknown)]
        )
    assert [type(answer) for answer in answers] == [Appended] * OTHERS + [ConversationNotFound] * OTHERS
    # Unknown conversations are not cached, so they are read two more times.
    assert (counts.locked, counts.inserted, counts.reads) == (0, 0, 3)
    assert counts.streams == 2 * OTHERS + OTHERS + OTHERS
    assert all(texts(log, conversation_id) == ["before", "after"] for conversation_id in cold)


async def test_with_a_small_cache_no_stream_is_read_again_under_the_lock(settings: Settings, log: Log) -> None:
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder, cache=StreamCache(max_bytes=1)) as events:
        conversation_ids = [await start(events) for _ in range(OTHERS)]
        items = [append_texts("pinned") for _ in conversation_ids]
        await append_all(events, [request(*pair) for pair in zip(conversation_ids, items, strict=True)])
        pins = [PinItem(item_id=item.items[0].item_id) for item in items]
        answers = await append_all(events, [request(*pair) for pair in zip(conversation_ids, pins, strict=True)])
    assert [type(answer) for answer in answers] == [Appended] * OTHERS
    assert (counts.locked, counts.states_read_locked) == (1, 0)


async def test_streams_of_more_rows_than_a_page_are_read(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        conversation_ids = [await start(events) for _ in range(3)]
        for conversation_id in conversation_ids:
            await events.append(
                request(conversation_id, append_texts(*(f"{n}" for n in range(MAX_PAGE_ROWS // 2 + 100))))
            )
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("DELETE FROM snapshots")
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        answers = await append_all(
            events, [request(conversation_id, append_texts("last")) for conversation_id in conversation_ids]
        )
    assert [answer.version for answer in answers if isinstance(answer, Appended)] == [MAX_PAGE_ROWS // 2 + 102] * 3
    assert (counts.locked, counts.reads) == (0, 2)
    assert all(texts(log, conversation_id)[-1] == "last" for conversation_id in conversation_ids)


async def test_an_unreadable_conversation_does_not_stop_other_commands_of_its_batch(
    settings: Settings, log: Log
) -> None:
    async with open_log(settings.postgres_url) as events:
        readable, unreadable, headless = [await start(events) for _ in range(3)]
        for conversation_id in (unreadable, headless):
            await events.append(request(conversation_id, append_texts("x")))
    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute(
            "UPDATE events SET topic = 'unknown' WHERE originator_id = %s AND originator_version = 2",
            [uuid_of(unreadable)],
        )
        connection.execute(
            "DELETE FROM events WHERE originator_id = %s AND originator_version = 1", [uuid_of(headless)]
        )
    recorder, counts = counting_recorder()
    async with open_log(settings.postgres_url, recorder_type=recorder) as events:
        answers = await append_all(
            events,
            [request(conversation_id, append_texts("y")) for conversation_id in (unreadable, readable, headless)],
        )
    assert [type(answer) for answer in answers] == [UnreadableEvent, Appended, UnreadableEvent]
    assert (counts.locked, counts.inserted) == (0, 0)
    assert texts(log, readable) == ["y"]
