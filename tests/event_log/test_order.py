"""ViewPositions become visible in commit order: who follows the log misses nothing, however slow a commit is."""

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
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorder import ConversationRecorder, Datastore
from infrastructure.ids import mint, mint_uuid
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.event_log.delaying import Part, Way, delaying
from tests.event_log.test_log import opened, say, start, work
from tests.log import Log

PATIENCE_SECONDS = 10.0
AT_ONCE = 1_000
AFTERWARDS = 5


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


class Follower:
    """Reads on from the last position it has seen, again and again."""

    def __init__(self, read: Callable[[int], Awaitable[list[int]]]) -> None:
        self._read = read
        self.seen: list[int] = []

    async def look(self) -> None:
        self.seen += await self._read(self.seen[-1] if self.seen else 0)

    async def follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0.002)


@asynccontextmanager
async def followers(settings: Settings) -> AsyncIterator[list[Follower]]:
    """One for each way in which the log is read by position. At the end they have read it to its end."""
    pool = make_pool(settings.postgres_url)
    await pool.open()
    reader = EventReader(pool)
    datastore = Datastore(settings.postgres_url)
    recorder = ConversationRecorder(datastore)

    async def after(position: int) -> list[int]:
        return [recorded.position for recorded in await reader.after(position, limit=AT_ONCE)]

    async def batch(position: int) -> list[int]:
        head = await reader.last_position()
        found = await reader.batch(position, limit=AT_ONCE, max_bytes=2**24, until=head)
        return [recorded.position for recorded in found]

    async def notifications(position: int) -> list[int]:
        found = await asyncio.to_thread(recorder.select_notifications, position, AT_ONCE, inclusive_of_start=False)
        return [notification.id for notification in found]

    following = [Follower(read) for read in (after, batch, notifications)]
    tasks = [asyncio.create_task(each.follow()) for each in following]
    try:
        yield following
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in following:
            await each.look()
        datastore.close()
        await pool.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it is another thread, or another process, that makes it true
            await asyncio.sleep(0.002)


def turn_is_taken(log: Log) -> bool:
    return bool(log.rows("SELECT 1 FROM pg_locks WHERE relation = 'append_turn'::regclass AND granted"))


def positions(log: Log) -> list[int]:
    return [position for (position,) in log.rows("SELECT notification_id FROM events ORDER BY notification_id")]


async def keep_appending(
    events: EventLog, conversation_id: str, name: str, late: asyncio.Task[Appended]
) -> list[Appended]:
    """Appends one after the other until AFTERWARDS past the end of `late`."""
    answers: list[Appended] = []
    left = AFTERWARDS
    while left:
        left -= late.done()
        answers.append(await events.append(work(conversation_id, say(f"{name}-{len(answers)}"))))
    return answers


@pytest.mark.parametrize("way", ["at once", "COMMIT"])
@pytest.mark.parametrize("lose", [False, True], ids=["late", "lost"])
@pytest.mark.parametrize("part", ["commit", "answer"])
async def test_who_follows_the_log_misses_nothing_while_a_commit_takes_a_second(
    settings: Settings, log: Log, part: Part, lose: bool, way: Way
) -> None:
    with delaying(settings.postgres_url) as proxy:
        async with (
            opened(proxy.url) as slow,
            opened(settings.postgres_url) as swift,
            followers(settings) as following,
        ):
            shared, own = await start(slow), await start(swift)
            first = say("first")
            await slow.append(work(shared, first))
            # What touches an item is decided under the lock, where the item is looked up.
            command = say("late") if way == "at once" else RetractItem(item_id=first.items[0].item_id)
            before = log.count()
            proxy.hold(part, lose=lose)
            late = asyncio.create_task(slow.append(work(shared, command)))
            await until(proxy.holding.is_set)
            await until(lambda: turn_is_taken(log) if part == "commit" else log.count() > before)
            others = asyncio.gather(
                *(keep_appending(swift, ident, f"{n}", late) for n, ident in enumerate((shared, own, own)))
            )
            await asyncio.sleep(proxy.seconds / 2)
            meanwhile = log.count() - before
            assert proxy.holding.is_set()
            assert meanwhile == 0 if part == "commit" else meanwhile > 1
            in_shared, *in_own = await others
    assert proxy.held == [way]
    answers = {shared: [late.result(), *in_shared], own: list(chain(*in_own))}
    if not lose:
        assert late.result().position == min(answer.position for answer in chain(*answers.values()))
    for ident, first_version in ((shared, 3), (own, 2)):
        assert log.versions(ident)[first_version - 1 :] == sorted(answer.version for answer in answers[ident])
        assert log.versions(ident) == list(range(1, len(answers[ident]) + first_version))
    stored = dict(log.rows("SELECT notification_id, originator_version FROM events"))
    assert all(stored[answer.position] == answer.version for answer in chain(*answers.values()))
    for follower in following:
        assert follower.seen == positions(log)


async def test_a_follower_would_notice_appends_that_take_no_turns(settings: Settings, log: Log) -> None:
    """So that the test above says something: transactions that insert without the lock, through the same proxy."""
    with (
        delaying(settings.postgres_url) as proxy,
        psycopg.connect(proxy.url) as slow,
        psycopg.connect(settings.postgres_url, autocommit=True) as swift,
    ):
        async with followers(settings) as following:
            first = insert(slow)
            proxy.hold("commit")
            late = asyncio.create_task(asyncio.to_thread(slow.commit))
            await until(proxy.holding.is_set)
            second = insert(swift)
            await until(lambda: all(follower.seen == [second] for follower in following))
            await late
    assert positions(log) == [first, second]
    for follower in following:
        assert follower.seen == [second]


def insert(connection: psycopg.Connection) -> int:
    """Inserts an event of a new stream and returns its position."""
    event = ItemAppended(item_id=mint("msg"), parent_id=None, branch=0, depth=1, item=b"{}", author="ann")
    row = connection.execute(
        "INSERT INTO events (originator_id, originator_version, topic, state) VALUES (%s, 1, %s, %b)"
        " RETURNING notification_id",
        (mint_uuid(), event.topic, encode(event)),
    ).fetchone()
    assert row is not None
    return int(row[0])
