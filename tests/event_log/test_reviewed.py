"""What reviews found: each was true once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from eventsourcing.persistence import ProgrammingError
from psycopg import Cursor

from domain.commands import DeleteConversation, EndConversation, ReopenConversation
from domain.errors import ConversationNotFound
from infrastructure.event_log.append_request import Appended, IdempotencyKey, LogUnavailable
from infrastructure.event_log.batch_decider import BatchPlan
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import Row
from infrastructure.settings import Settings
from infrastructure.stores.postgres_pipeline import PostgresPipeline
from tests.event_log.cutting import cutting
from tests.event_log.test_log import opened, say, start, texts, work
from tests.log import Log


def keyed(key: str, fingerprint: bytes = b"f") -> dict[str, Any]:
    return {"idempotency": IdempotencyKey(key, fingerprint), "answer": lambda appended: b"%d" % appended.version}


async def test_a_key_of_a_command_that_changed_nothing_is_free(settings: Settings) -> None:
    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        await events.append(work(conversation_id, ReopenConversation(), **keyed("k")))
        appended = await events.append(work(conversation_id, EndConversation(), **keyed("k", b"other")))
        assert (appended.conversation.status, appended.replayed) == ("ended", False)


async def test_a_command_that_changes_nothing_stands_where_the_change_in_its_batch_stands(settings: Settings) -> None:
    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        answers = await asyncio.gather(*(events.append(work(conversation_id, EndConversation())) for _ in range(8)))
    assert len({answer.position for answer in answers}) == 1
    assert answers[0].position > 0


async def test_what_was_said_in_a_deleted_conversation_is_not_told_again_for_a_key(settings: Settings) -> None:
    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        await events.append(work(conversation_id, say("secret"), **keyed("said")))
        await events.append(work(conversation_id, DeleteConversation(), **keyed("deleted")))
        with pytest.raises(ConversationNotFound):
            await events.append(work(conversation_id, say("secret"), **keyed("said")))
        assert (await events.append(work(conversation_id, DeleteConversation(), **keyed("deleted")))).replayed


async def test_a_batch_in_doubt_is_never_decided_again_one_by_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(settings.postgres_url)
    look_up = ConversationRecorder.positions_of

    def fails_once(self: ConversationRecorder, curs: Cursor[Any], rows: Sequence[Row]) -> list[int] | None:
        monkeypatch.setattr(ConversationRecorder, "positions_of", look_up)
        raise ProgrammingError("cached plan must not change result type")

    with cutting(settings.postgres_url) as proxy:
        async with opened(proxy.url) as events:
            conversation_id = await start(events)
            monkeypatch.setattr(ConversationRecorder, "positions_of", fails_once)
            proxy.lose_commits(1)
            answers = await asyncio.gather(
                *(events.append(work(conversation_id, say(text))) for text in ("a", "b")), return_exceptions=True
            )
    assert sorted(texts(log, conversation_id)) == ["a", "b"]
    assert all(
        isinstance(answer, Appended) or (isinstance(answer, LogUnavailable) and answer.outcome_unknown)
        for answer in answers
    )


async def test_what_fails_after_the_commit_is_not_appended_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(settings.postgres_url)

    def fails(*_: object) -> None:
        raise RuntimeError("no memory left")

    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        with monkeypatch.context() as patch:
            patch.setattr(BatchPlan, "settle", fails)
            answers = await asyncio.gather(
                *(events.append(work(conversation_id, say(text))) for text in ("a", "b")), return_exceptions=True
            )
        assert all(isinstance(answer, LogUnavailable) and answer.outcome_unknown for answer in answers)
        await events.append(work(conversation_id, say("c")))
    assert texts(log, conversation_id) == ["a", "b", "c"]


async def test_what_fails_while_an_answer_is_awaited_leaves_a_doubt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(settings.postgres_url)
    call = PostgresPipeline.call

    async def fails_behind(self: PostgresPipeline, parameters: Sequence[bytes], seconds: float) -> bytes | None:
        await call(self, parameters, seconds)
        raise MemoryError

    async with opened(settings.postgres_url) as events:
        conversation_id = await start(events)
        with monkeypatch.context() as patch:
            patch.setattr(PostgresPipeline, "call", fails_behind)
            answers = await asyncio.gather(
                *(events.append(work(conversation_id, say(text))) for text in ("a", "b")), return_exceptions=True
            )
        assert all(isinstance(answer, LogUnavailable) and answer.outcome_unknown for answer in answers)
        await events.append(work(conversation_id, say("c")))
    assert texts(log, conversation_id) == ["a", "b", "c"]
