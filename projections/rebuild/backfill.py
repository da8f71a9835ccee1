"""ViewBuild new collections of views from the log: the long part of a rebuild, done by several processes beside everything else.

Each takes a share of the conversations, so that none waits for another, and goes through the log in its order. Nobody reads the
collections yet, so there are no transactions; instead a page may be written twice and means the same: documents that
are there are left, changes are held against the position they lead to. A conversation with an event that can not be read is
parked in the new collections.

`python -m projections.rebuild.backfill` is one such process: it reads its Share from stdin, and prints its News after each page.
It ends with whoever started it, for then nobody reads that.
"""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from pymongo import DeleteMany, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError
from pymongo.synchronous import collection as synchronous

from infrastructure.event_log.codec import UnreadableEvent, decoded_size
from infrastructure.event_log.recorded import Logged, UnreadableRecord, as_logged
from projections.coalesce import Change, Sum, Tally, coalesce
from projections.parking import parked_for, released
from projections.views.catalog import MongoView
from projections.views.event_writes import event_writes, is_deletion
from projections.views.partitions import PARTITIONS
from projections.views.view_position import Parked
from projections.views.writes import Document

ROOT = Path(__file__).parents[2]
PAGE_POSITIONS = 8_000
"""A page ends at a multiple of it, whoever fills what: so one that is written again, after a kill, holds the same as before."""

PART_BYTES = 16 * 1024 * 1024
"""Of states once they are read: a page with more is written in parts, for a process must hold one of them several times over.

A part that is written again must end where it did, or totals are added twice: where `decoded_size` changes, PAGES is to change too.
"""

PAGES = f"{PAGE_POSITIONS} positions, {PART_BYTES} bytes"
"""What was filled otherwise is filled from the start."""

_DUPLICATE_KEY = 11000
_PAGE = (
    "SELECT notification_id, originator_id, originator_version, tenant_id, recorded_at, subject, correlation_id, topic, state"
    " FROM events WHERE notification_id > %s AND notification_id <= %s"
    " AND get_byte(uuid_send(originator_id), 15) %% %s = ANY(%s) ORDER BY notification_id"
)
_UNHURRIED = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')"
)
"""A page's statement lasts until MongoDB has taken all but its end: a limit that the URL, the role or the database sets would end it
there every time. Postgres has the second from 17 on."""
_ROWS_AT_ONCE = 32 if psycopg.capabilities.has_stream_chunked() else 1


class Share(Struct, frozen=True, kw_only=True):
    """What one process fills: of each view's collection the documents of the conversations in its buckets, up to `until`.

    Those that are `parked` are left out.
    """

    postgres_url: str
    mongodb_url: str
    database: str
    collections: Mapping[MongoView, str]
    parked: frozenset[str]
    number: int
    partitions: tuple[int, ...]
    after: int
    until: int


class News(Struct, frozen=True):
    """How far a share has come, and which conversations were parked on the way, or let go of because they were deleted."""

    number: int
    position: int
    parked: Mapping[str, Parked] = {}
    released: Sequence[str] = ()


def fill(share: Share) -> Iterator[News]:
    """Fills it, with news after each page. Raises psycopg.Error and PyMongoError; then go on from there."""
    # What is noted as filled must still be there when MongoDB was killed meanwhile: so each write waits for the journal.
    client: MongoClient[Document] = MongoClient(share.mongodb_url, w="majority", journal=True)
    with client, psycopg.connect(share.postgres_url, autocommit=True) as connection:
        connection.execute(_UNHURRIED)
        database = client[share.database]
        collections = {view: database[name] for view, name in share.collections.items()}
        position, parked = share.after, set(share.parked)
        while position < share.until:
            end = min(share.until, (position // PAGE_POSITIONS + 1) * PAGE_POSITIONS)
            found: dict[str, Parked] = {}
            gone: set[str] = set()
            for part in _parts(connection, share, position, end):
                unreadable = _unreadable(part, parked)
                parked |= unreadable.keys()
                made = (
                    write for logged in part if _shows(logged, parked, unreadable) for write in event_writes(logged)
                )
                for view, tally in coalesce(write for write in made if write.view in collections).items():
                    _write(collections[view], view, tally)
                let_go = released(part, parked)
                parked -= let_go
                found |= unreadable
                gone |= let_go
            position = end
            yield News(share.number, position, found, sorted(gone))


def _unreadable(page: Sequence[Logged], parked: Collection[str]) -> dict[str, Parked]:
    """The conversations that are to be parked: an event of theirs can not be read, unless it is their deletion."""
    found: dict[str, Parked] = {}
    for logged in page:
        ident = logged.conversation_id
        if (
            isinstance(logged, UnreadableRecord)
            and not is_deletion(logged)
            and ident not in parked
            and ident not in found
        ):
            found[ident] = parked_for(logged, UnreadableEvent(logged.problem))
    return found


def _shows(logged: Logged, parked: Collection[str], found: Mapping[str, Parked]) -> bool:
    """Whether an event is applied: not that of a parked conversation, from the event on that parks it, but its deletion is."""
    ident = logged.conversation_id
    if ident not in parked or is_deletion(logged):
        return True
    return ident in found and logged.position < found[ident].position


def _parts(connection: psycopg.Connection[Any], share: Share, after: int, end: int) -> Iterator[list[Logged]]:
    """The share's events up to `end`, in parts that are the same whenever they are read."""
    asked = (after, end, PARTITIONS, list(share.partitions))
    part: list[Logged] = []
    size = 0
    with connection.cursor(binary=True) as cursor:
        for row in cursor.stream(_PAGE, asked, binary=True, size=_ROWS_AT_ONCE):
            its = decoded_size(row[8])
            if part and size + its > PART_BYTES:
                yield part
                part, size = [], 0
            part.append(as_logged(row))
            size += its
    if part:
        yield part


def _write(collection: synchronous.Collection[Document], view: MongoView, tally: Tally) -> None:
    """Updates, removals, inserts: the order of a tally."""
    if tally.updates:
        collection.bulk_write([_update(ident, change) for ident, change in tally.updates.items()], ordered=False)
    if tally.removed:
        field = "id" if view == "conversations" else "conversation_id"
        collection.bulk_write([DeleteMany({"tenant": t, field: c}) for t, c in tally.removed], ordered=False)
    with _unless_there():
        if tally.inserts:
            collection.insert_many(list(tally.inserts.values()), ordered=False)
        if tally.sums:
            collection.bulk_write([_sum(ident, it) for ident, it in tally.sums.items()], ordered=False)


@contextmanager
def _unless_there() -> Iterator[None]:
    """What is there already was written before."""
    try:
        yield
    except BulkWriteError as error:
        if any(failed["code"] != _DUPLICATE_KEY for failed in error.details["writeErrors"]):
            raise


def _sum(ident: str, it: Sum) -> UpdateOne:
    where = {
        "_id": ident,
        "position": {"$lt": it.position},
    }  # what was added before is there at its position, and taken as a duplicate
    begin = {name: value for name, value in it.document.items() if name != "_id"}
    return UpdateOne(where, {"$setOnInsert": begin, "$inc": it.add, "$max": {"position": it.position}}, upsert=True)


def _update(ident: str, change: Change) -> UpdateOne:
    operators: dict[str, Any] = {"$set": change.set} if change.set else {}
    where: Document = {"_id": ident}
    if change.add:
        operators["$inc"] = change.add
    if "position" in change.set:
        where["position"] = {"$lt": change.set["position"]}  # nothing is added twice, and nothing made as it was before
    return UpdateOne(where, operators)


class BackfillFailed(Exception):
    """A process that filled its share ended before it was done; it said why on stderr."""


async def filled(shares: Sequence[Share]) -> AsyncIterator[News]:
    """Fills the shares, each in a process of its own; yields their news as they get on. Raises BackfillFailed."""
    command = (sys.executable, "-P", "-m", "projections.rebuild.backfill")
    pipe = asyncio.subprocess.PIPE
    news: asyncio.Queue[News | None] = asyncio.Queue()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=env) for _ in shares]

    async def follow(share: Share, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(share))
        process.stdin.close()
        async for line in process.stdout:
            news.put_nowait(msgspec.json.decode(line, type=News))
        if await process.wait():
            raise BackfillFailed(f"share {share.number} ended with {process.returncode}")

    async def follow_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for share, process in zip(shares, processes, strict=True):
                    group.create_task(follow(share, process))
        finally:
            news.put_nowait(None)

    following = asyncio.create_task(follow_all())
    try:
        while (told := await news.get()) is not None:
            yield told
        await following
    except ExceptionGroup as failed:
        raise BackfillFailed(str(failed.exceptions[0])) from failed
    finally:
        following.cancel()
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def main() -> None:
    for news in fill(msgspec.json.decode(sys.stdin.buffer.read(), type=Share)):
        sys.stdout.buffer.write(msgspec.json.encode(news) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # A page makes tens of thousands of objects that all live as long as it does, and no cycles: see projections/main.py.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    main()
