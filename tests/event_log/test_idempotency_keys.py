"""Idempotency keys: a repeated command gets the first answer, and is appended once."""

from datetime import UTC, datetime, timedelta

import pytest

from domain.commands import (
    DeleteConversation,
    EndConversation,
    ReopenConversation,
    ShareConversation,
    UnshareConversation,
)
from domain.errors import ConversationNotFound
from domain.events import Share
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import IdempotencyKey, KeyReused
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.log import EventLog, utc_now
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.settings import Settings
from tests.event_log.appending import ANN, append_texts, open_log, request, start, texts, with_key
from tests.log import Log
from tests.queries.conftest import eventually


async def test_a_key_that_is_repeated_after_a_restart_gets_the_first_answer(settings: Settings, log: Log) -> None:
    key = IdempotencyKey("k", b"f")
    body = lambda appended: f"at {appended.version}".encode()  # noqa: E731
    async with open_log(settings.postgres_url) as events:
        conversation_id = await start(events)
        first = await events.append(request(conversation_id, append_texts("a"), idempotency=key, answer=body))
    async with open_log(settings.postgres_url) as events:
        repeated = await events.append(request(conversation_id, append_texts("a"), idempotency=key, answer=body))
        with pytest.raises(KeyReused):
            await events.append(
                request(conversation_id, append_texts("x"), idempotency=IdempotencyKey("k", b"other"), answer=body)
            )
        other = Principal("other", "eve", SCOPES)
        with pytest.raises(ConversationNotFound):
            await events.append(
                request(conversation_id, append_texts("a"), idempotency=key, answer=body, principal=other)
            )
    assert (first.answer, first.replayed) == (b"at 2", False)
    assert (repeated.answer, repeated.replayed, repeated.version, repeated.position) == (
        b"at 2",
        True,
        2,
        first.position,
    )
    assert texts(log, conversation_id) == ["a"]


async def test_an_expired_key_counts_as_new(settings: Settings, log: Log) -> None:
    key, now = IdempotencyKey("k", b"f"), [utc_now()]
    async with open_log(settings.postgres_url, lambda: now[0], keep_keys=timedelta(hours=2)) as events:
        conversation_id = await start(events)
        for hours_later, replayed in ((0, False), (1, True), (2, False), (1, True)):
            now[0] += timedelta(hours=hours_later)
            appended = await events.append(
                request(conversation_id, append_texts("a"), idempotency=key, answer=lambda a: b"%d" % a.version)
            )
            assert appended.replayed is replayed
        other = IdempotencyKey("k", b"other")
        now[0] += timedelta(hours=3)
        assert not (
            await events.append(request(conversation_id, append_texts("b"), idempotency=other, answer=lambda _: b""))
        ).replayed
    assert texts(log, conversation_id) == ["a", "a", "b"]


async def test_readers_do_not_find_an_expired_key(settings: Settings, reader: EventReader) -> None:
    now = [datetime.now(UTC) - timedelta(hours=2)]
    async with open_log(settings.postgres_url, lambda: now[0]) as events:
        await events.append(request(await start(events), append_texts("x"), **with_key("k")))
    since = now[0] + timedelta(hours=1)
    assert await reader.of(ANN).first_answer(IdempotencyKey("k", b"other"), since) is None
    assert await reader.of(ANN).first_answer(IdempotencyKey("k", b"f"), now[0]) is not None
    with pytest.raises(KeyReused):
        await reader.of(ANN).first_answer(IdempotencyKey("k", b"other"), now[0])


async def test_expired_keys_are_deleted_when_a_process_starts(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url) as events:
        await events.append(request(await start(events), append_texts("a"), **with_key("k")))
    assert log.rows("SELECT count(*) FROM idempotency_keys") == [(1,)]
    async with open_log(settings.postgres_url, keep_keys=timedelta(0)):
        await eventually(lambda: log.rows("SELECT count(*) FROM idempotency_keys") == [(0,)])


async def test_a_wrong_clock_deletes_no_key_early_and_keeps_none_for_ever(settings: Settings, log: Log) -> None:
    keep, week = timedelta(days=1), timedelta(days=7)
    with Datastore(settings.postgres_url) as datastore:
        recorder = ConversationRecorder(datastore)
        async with open_log(settings.postgres_url, lambda: utc_now() + week) as events:
            await events.append(request(await start(events), append_texts("a"), **with_key("of the future")))
        async with open_log(settings.postgres_url) as events:
            await events.append(request(await start(events), append_texts("a"), **with_key("of today")))
        assert recorder.delete_keys(utc_now() + timedelta(days=2), keep, limit=10) == 0
        recorder.date_future_keys(utc_now(), keep)
        assert log.rows("SELECT FROM idempotency_keys WHERE recorded_at > clock_timestamp()") == []
        assert recorder.delete_keys(utc_now(), timedelta(0), limit=10) == 2


async def test_the_key_of_a_command_that_changed_nothing_is_free(events: EventLog) -> None:
    conversation_id = await start(events)
    await events.append(request(conversation_id, ReopenConversation(), **with_key("k")))
    appended = await events.append(request(conversation_id, EndConversation(), **with_key("k", b"other")))
    assert (appended.conversation.status, appended.replayed) == ("ended", False)


async def test_after_a_deletion_only_the_key_of_the_deletion_repeats_its_answer(events: EventLog) -> None:
    conversation_id = await start(events)
    await events.append(request(conversation_id, append_texts("secret"), **with_key("appended")))
    await events.append(request(conversation_id, DeleteConversation(), **with_key("deleted")))
    with pytest.raises(ConversationNotFound):
        await events.append(request(conversation_id, append_texts("secret"), **with_key("appended")))
    assert (await events.append(request(conversation_id, DeleteConversation(), **with_key("deleted")))).replayed


async def test_no_answer_is_repeated_from_a_conversation_that_is_no_longer_shared(
    events: EventLog,
) -> None:
    conversation_id = await start(events)
    bob = Principal("acme", "bob", SCOPES - {"admin"})
    await events.append(request(conversation_id, ShareConversation(share=Share(role="reader", subject="bob"))))
    await events.append(request(conversation_id, ShareConversation(share=Share(role="writer", subject="bob"))))
    append = request(conversation_id, append_texts("secret"), principal=bob, **with_key("k"))
    assert [(await events.append(append)).replayed for _ in range(2)] == [False, True]
    await events.append(request(conversation_id, UnshareConversation(subject="bob")))
    with pytest.raises(ConversationNotFound):
        await events.append(append)


async def test_deleting_a_conversation_empties_its_kept_answers(events: EventLog, log: Log) -> None:
    kept, deleted = await start(events), await start(events)
    for conversation_id in (kept, deleted):
        await events.append(request(conversation_id, append_texts("x"), **with_key(conversation_id)))
    await events.append(request(deleted, DeleteConversation(), **with_key("the receipt")))
    answers = {key: bytes(answer) for key, answer in log.rows("SELECT key, answer FROM idempotency_keys")}
    assert answers == {kept: b"2", deleted: b"", "the receipt": b"3"}


async def test_keys_are_unicode_whatever_the_client_encoding(settings: Settings, log: Log) -> None:
    async with open_log(settings.postgres_url + "?client_encoding=LATIN1") as events:
        conversation_id = await start(events)
        answers = [
            await events.append(request(conversation_id, append_texts("x"), **with_key("é 😀"))) for _ in range(2)
        ]
    assert [answer.replayed for answer in answers] == [False, True]
    assert log.rows("SELECT key FROM idempotency_keys") == [("é 😀",)]
