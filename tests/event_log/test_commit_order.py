"""Positions become visible in commit order, so a follower of the log misses nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import chain

import psycopg
import pytest

from domain.commands import RetractItem
from domain.events import ItemAppended
from infrastructure.event_log.append_request import Appended
from infrastructure.event_log.codec import encode
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.ids import mint, mint_uuid
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.event_log.appending import append_texts, open_log, request, start
from tests.event_log.commit_delaying_proxy import CommitKind, Part, delaying_proxy
from tests.log import Log

TIMEOUT_SECONDS = 10.0
MAX_EVENTS = 1_000
MORE_APPENDS = 5
MAX_DELAY_SECONDS = 5.0  # appends wait longer than this


class Follower:
    def __init__(self, read: Callable[[int], Awaitable[list[int]]]) -> None:
        self._read = read
        self.seen: list[int] = []

    async def poll(self) -> None:
        self.seen += await self._read(self.seen[-1] if self.seen else 0)

    async def follow(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(0.002)


@asynccontextmanager
async def followers(settings: Settings) -> AsyncIterator[list[Follower]]:
    """Three followers, which read the log by position in different ways."""
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool)
    datastore = Datastore(settings.postgres_url)
    recorder = ConversationRecorder(datastore)

    async def after(position: int) -> list[int]:
        return [recorded.position for recorded in await reader.after(position, limit=MAX_EVENTS)]

    async def batch(position: int) -> list[int]:
        head = await reader.last_position()
        page = await reader.batch(position, limit=MAX_EVENTS, max_bytes=2**24, until=head)
        return [recorded.position for recorded in page]

    async def notifications(position: int) -> list[int]:
        page = await asyncio.to_thread(recorder.select_notifications, position, MAX_EVENTS, inclusive_of_start=False)
        return [notification.id for notification in page]

    following = [Follower(read) for read in (after, batch, notifications)]
    tasks = [asyncio.create_task(follower.follow()) for follower in following]
    try:
        yield following
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for follower in following:
            await follower.poll()
        datastore.close()
        await pool.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():  # noqa: ASYNC110 - another thread or another process makes it true
            await asyncio.sleep(0.002)


def append_lock_is_held(log: Log) -> bool:
    return bool(log.rows("SELECT 1 FROM pg_locks WHERE relation = 'append_turn'::regclass AND granted"))


def positions(log: Log) -> list[int]:
    return [position for (position,) in log.rows("SELECT notification_id FROM events ORDER BY notification_id")]


async def keep_appending(
    events: EventLog, conversation_id: str, name: str, late: asyncio.Task[Appended]
) -> list[Appended]:
    """Appends items until `late` is done, and then MORE_APPENDS more items."""
    answers: list[Appended] = []
    remaining = MORE_APPENDS
    while remaining:
        remaining -= late.done()
        answers.append(await events.append(request(conversation_id, append_texts(f"{name}-{len(answers)}"))))
    return answers


@pytest.mark.parametrize("kind", ["at once", "COMMIT"])
@pytest.mark.parametrize("lose", [False, True], ids=["late", "lost"])
@pytest.mark.parametrize("part", ["commit", "answer"])
async def test_followers_miss_nothing_when_a_commit_is_delayed(
    settings: Settings, log: Log, part: Part, lose: bool, kind: CommitKind
) -> None:
    with delaying_proxy(settings.postgres_url, seconds=MAX_DELAY_SECONDS) as proxy:
        async with (
            open_log(proxy.url) as slow,
            open_log(settings.postgres_url) as fast,
            followers(settings) as following,
        ):
            shared, own = await start(slow), await start(fast)
            first = append_texts("first")
            await slow.append(request(shared, first))
            # RetractItem is decided under the lock, because its item is looked up there. So it commits with COMMIT.
            command = append_texts("late") if kind == "at once" else RetractItem(item_id=first.items[0].item_id)
            before = log.count()
            proxy.delay(part, lose=lose)
            late = asyncio.create_task(slow.append(request(shared, command)))
            await until(proxy.delaying.is_set)
            await until(lambda: append_lock_is_held(log) if part == "commit" else log.count() > before)
            others = asyncio.gather(
                *(
                    keep_appending(fast, conversation_id, f"{n}", late)
                    for n, conversation_id in enumerate((shared, own, own))
                )
            )
            if part == "commit":
                await asyncio.sleep(0.5)  # time for appends that do not wait for the lock
                assert log.count() == before
            else:
                await until(lambda: log.count() > before + 1)
            assert proxy.delaying.is_set()
            proxy.release()
            in_shared, *in_own = await others
    assert proxy.delayed == [kind]
    answers = {shared: [late.result(), *in_shared], own: list(chain(*in_own))}
    if not lose:
        assert late.result().position == min(answer.position for answer in chain(*answers.values()))
    for conversation_id, first_version in ((shared, 3), (own, 2)):
        assert log.versions(conversation_id)[first_version - 1 :] == sorted(
            answer.version for answer in answers[conversation_id]
        )
        assert log.versions(conversation_id) == list(range(1, len(answers[conversation_id]) + first_version))
    stored = dict(log.rows("SELECT notification_id, originator_version FROM events"))
    assert all(stored[answer.position] == answer.version for answer in chain(*answers.values()))
    for follower in following:
        assert follower.seen == positions(log)


async def test_followers_miss_events_that_are_inserted_without_the_append_lock(settings: Settings, log: Log) -> None:
    """Shows that the test above can fail."""
    with (
        delaying_proxy(settings.postgres_url) as proxy,
        psycopg.connect(proxy.url) as slow,
        psycopg.connect(settings.postgres_url, autocommit=True) as fast,
    ):
        async with followers(settings) as following:
            first = insert(slow, tenant="slow")
            proxy.delay("commit")
            late = asyncio.create_task(asyncio.to_thread(slow.commit))
            await until(proxy.delaying.is_set)
            second = insert(fast, tenant="fast")
            await until(lambda: all(follower.seen == [second] for follower in following))
            await late
    assert positions(log) == [first, second]
    for follower in following:
        assert follower.seen == [second]


def insert(connection: psycopg.Connection, tenant: str) -> int:
    """Inserts an event without the append lock. Returns its position.

    Each transaction needs its own tenant, because transactions of one tenant wait for each other.
    """
    event = ItemAppended(item_id=mint("msg"), parent_id=None, branch=0, depth=1, item=b"{}", author="ann")
    row = connection.execute(
        "INSERT INTO events (originator_id, originator_version, topic, state, tenant_id) VALUES (%s, 1, %s, %b, %s)"
        " RETURNING notification_id",
        (mint_uuid(), event.topic, encode(event), tenant),
    ).fetchone()
    assert row is not None
    return int(row[0])
