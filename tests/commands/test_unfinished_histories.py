"""Long histories whose process was killed before it stored the request."""

import time

from commands.unfinished_histories import MIN_AGE_SECONDS, UnfinishedHistories
from domain.commands import AppendItems, NewItem, Prefix, RequestReply
from domain.events import Shown
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.event_log.appending import append_texts, open_log, request, start
from tests.log import Log


def history(*, answered: bool) -> AppendItems:
    """A part of a history, as `request_chat_reply.py` stores it."""
    items = tuple(NewItem(item_id=mint("msg"), item=b'{"role": "user", "content": "?"}') for _ in range(3))
    prefixes = tuple(Prefix(item_id=new.item_id, hash=new.item_id.encode(), answered=answered) for new in items)
    return AppendItems(items=items, author="ann", prefixes=prefixes)


async def stored(events: EventLog, *commands: AppendItems | RequestReply) -> str:
    """Starts a conversation, and appends the commands. Returns the conversation's id."""
    conversation_id = await start(events)
    for command in commands:
        await events.append(request(conversation_id, command))
    return conversation_id


def reply() -> RequestReply:
    shown = Shown(version=1, ranges=(), budget=1, tokens=1, encoding="e", renderer=6, request_sha256=b"")
    return RequestReply(response_id=mint("resp"), model="m", parameters=b"{}", input=(), shown=shown)


async def test_a_history_without_a_request_is_deleted_after_an_hour(settings: Settings) -> None:
    log, pool = Log(settings.postgres_url), make_pool(settings.postgres_url)
    await pool.open()
    now = time.time()
    async with open_log(settings.postgres_url) as events:
        unfinished = [await stored(events, history(answered=False), history(answered=False)) for _ in range(2)]
        kept = [
            await stored(events, history(answered=False), reply()),
            await stored(events, history(answered=True)),
            await stored(events, append_texts("no transcript")),
        ]

        def deleted(conversation_ids: list[str]) -> list[bool]:
            ends = "SELECT topic FROM events WHERE originator_id = %s ORDER BY originator_version DESC LIMIT 1"
            return [log.rows(ends, uuid_of(one)) == [("conversation.deleted",)] for one in conversation_ids]

        histories = UnfinishedHistories(pool, events, clock=lambda: now)
        await histories.sweep()
        assert deleted([*unfinished, *kept]) == [False] * 5, "a history was deleted before it was an hour old"
        now += MIN_AGE_SECONDS + 60
        for process in (histories, UnfinishedHistories(pool, events, clock=lambda: now), histories):
            await process.sweep()
            assert deleted(unfinished) == [True] * 2
            assert deleted(kept) == [False] * 3
    await pool.close()
    rows = "SELECT count(*) FROM transcript_prefixes WHERE conversation_id = ANY(%s)"
    assert log.rows(rows, [uuid_of(one) for one in unfinished]) == [(0,)]
