"""One backfill process: fills new collections of views with the conversations of its partitions, page by page.

Nobody reads the collections yet, so no transactions are needed. Writing a page twice has the same result as writing it
once. The process runs as `python -m projections.rebuild.backfill`. It reads a BackfillTask from stdin and prints a
BackfillProgress after each page.
"""

import gc
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from pymongo import DeleteMany, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError
from pymongo.synchronous import collection as synchronous

from infrastructure.event_log.codec import UnreadableEvent, decoded_size
from infrastructure.event_log.incarnation import INCARNATION, LogMoved
from infrastructure.event_log.recorded import COLUMNS_WITH_OWNER, Logged, UnreadableRecord, as_logged
from projections.coalesce import Change, Increment, ViewBatch, coalesce
from projections.mongo_statements import update_operators
from projections.parking import deleted_parked, parked_for
from projections.views.catalog import MongoView
from projections.views.event_writes import event_writes, is_deletion
from projections.views.partitions import PARTITIONS
from projections.views.view_position import Parked
from projections.views.writes import Document

_DUPLICATE_KEY = 11000
_PAGE = (
    "SELECT {columns} FROM events WHERE notification_id > %s AND notification_id <= %s"
    " AND get_byte(uuid_send(originator_id), 15) %% %s = ANY(%s) ORDER BY notification_id"
)
_INCARNATION = "SELECT " + INCARNATION
_POSITION_FIELDS = frozenset({"position", "feedback_position"})
"""A change that adds numbers sets one of these fields to its event's position."""

_NO_TIMEOUTS = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')"
)
"""A page's SELECT goes on while its rows are written to MongoDB. So a timeout could end every attempt.

`transaction_timeout` exists from Postgres 17 on.
"""
_ROWS_PER_FETCH = 32 if psycopg.capabilities.has_stream_chunked() else 1


class PageSizes(Struct, frozen=True):
    """How large a page and its parts are.

    A page that is written again must begin and end at the same positions. Otherwise totals are added twice.
    `part_bytes` limits the decoded state, because a process holds several copies of a part in memory. If
    `decoded_size` changes, change these sizes too. Then unfinished builds start again.
    """

    positions: int = 8_000
    part_bytes: int = 16 * 1024 * 1024

    def __str__(self) -> str:
        """The sizes are stored with a build. A build with other sizes is started again."""
        return f"{self.positions} positions, {self.part_bytes} bytes"


class BackfillTask(Struct, frozen=True, kw_only=True):
    """The input of a backfill process.

    `parked` conversations are left out. `incarnation`: the incarnation of the log that the task reads.
    """

    postgres_url: str
    mongodb_url: str
    database: str
    collections: Mapping[MongoView, str]
    parked: frozenset[str]
    number: int
    partitions: tuple[int, ...]
    after: int
    target: int
    incarnation: str
    pages: PageSizes = PageSizes()
    rows_per_fetch: int = _ROWS_PER_FETCH


class BackfillProgress(Struct, frozen=True):
    """How far a task is.

    `parked`, `released`: the conversations that were parked or released since the last report. The deletion of a parked
    conversation releases it.
    """

    number: int
    position: int
    parked: Mapping[str, Parked] = {}
    released: Sequence[str] = ()


def backfill(task: BackfillTask) -> Iterator[BackfillProgress]:
    """Yields after each page. After psycopg.Error or PyMongoError, resume from the last position.

    Raises LogMoved if the log has another incarnation. Then start again.
    """
    # The recorded progress must not be ahead of what MongoDB has after a crash. So each write waits for the journal.
    client: MongoClient[Document] = MongoClient(task.mongodb_url, w="majority", journal=True)
    with client, psycopg.connect(task.postgres_url, autocommit=True) as connection:
        connection.execute(_NO_TIMEOUTS)
        database = client[task.database]
        collections = {view: database[name] for view, name in task.collections.items()}
        position, parked = task.after, set(task.parked)
        page_size = task.pages.positions
        while position < task.target:
            end = min(task.target, (position // page_size + 1) * page_size)
            newly_parked: dict[str, Parked] = {}
            newly_released: set[str] = set()
            for part in _parts(connection, task, position, end):
                unreadable = _unreadable(part, parked)
                parked |= unreadable.keys()
                applied = [logged for logged in part if _is_applied(logged, parked, unreadable)]
                writes = (write for logged in applied for write in event_writes(logged) if write.view in collections)
                for view, batch in coalesce(writes).items():
                    _write(collections[view], view, batch)
                part_released = deleted_parked(part, parked)
                parked -= part_released
                newly_parked |= unreadable
                newly_released |= part_released
            [(incarnation,)] = connection.execute(_INCARNATION)
            if incarnation != task.incarnation:
                raise LogMoved("the log may have moved back during the backfill")
            position = end
            yield BackfillProgress(task.number, position, newly_parked, sorted(newly_released))


def _unreadable(part: Sequence[Logged], parked: Collection[str]) -> dict[str, Parked]:
    """A deletion need not be decoded."""
    to_park: dict[str, Parked] = {}
    for logged in part:
        if isinstance(logged, UnreadableRecord) and not is_deletion(logged):
            if logged.conversation_id not in parked and logged.conversation_id not in to_park:
                to_park[logged.conversation_id] = parked_for(logged, UnreadableEvent(logged.problem))
    return to_park


def _is_applied(logged: Logged, parked: Collection[str], newly_parked: Mapping[str, Parked]) -> bool:
    """A deletion is always applied, and so are events before the event that parks their conversation."""
    conversation_id = logged.conversation_id
    if conversation_id not in parked or is_deletion(logged):
        return True
    return conversation_id in newly_parked and logged.position < newly_parked[conversation_id].position


def _parts(connection: psycopg.Connection[Any], task: BackfillTask, after: int, end: int) -> Iterator[list[Logged]]:
    """The parts are the same at every reading."""
    parameters = (after, end, PARTITIONS, list(task.partitions))
    part: list[Logged] = []
    part_size = 0
    with connection.cursor(binary=True) as cursor:
        for row in cursor.stream(
            _PAGE.format(columns=COLUMNS_WITH_OWNER), parameters, binary=True, size=task.rows_per_fetch
        ):
            size = decoded_size(row[8])
            if part and part_size + size > task.pages.part_bytes:
                yield part
                part, part_size = [], 0
            part.append(as_logged(row))
            part_size += size
    if part:
        yield part


def _write(collection: synchronous.Collection[Document], view: MongoView, batch: ViewBatch) -> None:
    if batch.updates:
        collection.bulk_write([_update(key, change) for key, change in batch.updates.items()], ordered=False)
    if batch.removed:
        field = "id" if view == "conversations" else "conversation_id"
        deletes = [DeleteMany({"tenant": tenant, field: removed}) for tenant, removed in batch.removed]
        collection.bulk_write(deletes, ordered=False)
    with _ignoring_duplicates():
        if batch.inserts:
            collection.insert_many(list(batch.inserts.values()), ordered=False)
        if batch.increments:
            upserts = [_upsert(key, increment) for key, increment in batch.increments.items()]
            collection.bulk_write(upserts, ordered=False)


@contextmanager
def _ignoring_duplicates() -> Iterator[None]:
    """An earlier attempt may have written the documents."""
    try:
        yield
    except BulkWriteError as error:
        if any(failed["code"] != _DUPLICATE_KEY for failed in error.details["writeErrors"]):
            raise


def _upsert(key: str, increment: Increment) -> UpdateOne:
    # If an earlier attempt added these numbers, the filter does not match. Then the upsert fails with a duplicate key,
    # which is ignored.
    where = {"_id": key, "position": {"$lt": increment.position}}
    first = {name: value for name, value in increment.document.items() if name != "_id"}
    change = {"$setOnInsert": first, "$inc": increment.add, "$max": {"position": increment.position}}
    return UpdateOne(where, change, upsert=True)


def _update(key: str, change: Change) -> UpdateOne:
    where: Document = {"_id": key}
    for field in _POSITION_FIELDS & change.set.keys():  # adds nothing twice, and never replaces a newer state
        where[field] = {"$not": {"$gte": change.set[field]}}
    return UpdateOne(where, update_operators(change))


def main() -> None:
    for progress in backfill(msgspec.json.decode(sys.stdin.buffer.read(), type=BackfillTask)):
        sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # A page creates no reference cycles. Its tens of thousands of objects live until the page is written.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    main()
