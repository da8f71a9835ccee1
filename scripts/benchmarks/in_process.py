"""The event log without HTTP: appends of one event by 16 writers, beside raw INSERTs and the library's own recorder.

All three are in a scratch database of the store's own, durable Postgres, and write the same row.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import psycopg
import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict

from domain.commands import AppendItems, Command, NewItem, StartConversation
from domain.events import ContextPolicy, ItemAppended
from domain.items import as_stored
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.codec import encode
from infrastructure.event_log.log import EventLog
from infrastructure.ids import CONVERSATION, mint, mint_uuid
from infrastructure.observability.metrics import Metrics
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import TEXT

WRITERS = 16
FLOOR = "raw INSERTs of one row, 16 connections"
STOCK = "stock eventsourcing recorder, 16 threads"
OURS = "log append, 16 writers"

_ITEM = as_stored({"type": "message", "role": "user", "content": TEXT})
_STATE = encode(ItemAppended(item_id=mint("msg"), parent_id=mint("msg"), branch=0, depth=2, item=_ITEM, author="bench"))
_INSERT = (
    "INSERT INTO floor_events (originator_id, originator_version, topic, state, tenant_id, item_id, recorded_at, subject,"
    " command_id, correlation_id, chain_hash) VALUES (%s, %s, %s, %b, %s, %s, %s, %s, %s, %s, %b)"
)


def run(board: Board, postgres_url: str, seconds: float) -> None:
    """Adds one run of the three to the board. `postgres_url`: a migrated database that nobody else uses."""
    with _raw(postgres_url) as inserts:
        board.add(FLOOR, _threads(inserts, seconds))
    with _stock(postgres_url) as inserts:
        board.add(STOCK, _threads(inserts, seconds), floor=FLOOR)
    board.add(OURS, uvloop.run(_ours(postgres_url, seconds)), floor=FLOOR)


async def _ours(postgres_url: str, seconds: float) -> float:
    log = EventLog(postgres_url, Metrics())
    log.open()

    async def append(conversation_id: str, command: Command) -> None:
        await log.append(
            AppendRequest(
                principal=DEFAULT,
                conversation_id=conversation_id,
                command=command,
                command_id=mint_uuid(),
                correlation_id="bench",
            )
        )

    async def write() -> int:
        idents = [mint(CONVERSATION) for _ in range(10)]
        for ident in idents:
            await append(ident, _start(ident))
        await ready.wait()
        stop = time.perf_counter() + seconds
        appended = 0
        while time.perf_counter() < stop:
            items = (NewItem(item_id=mint("msg"), item=_ITEM),)
            await append(idents[appended % 10], AppendItems(items=items, author="bench"))
            appended += 1
        return appended

    ready = asyncio.Barrier(WRITERS)
    try:
        return sum(await asyncio.gather(*(write() for _ in range(WRITERS)))) / seconds
    finally:
        await log.close()


def _start(ident: str) -> StartConversation:
    return StartConversation(
        conversation_id=ident,
        tenant=DEFAULT.tenant,
        owner=DEFAULT.subject,
        title=None,
        instructions=None,
        metadata={},
        context_policy=ContextPolicy(),
        items=(),
    )


@contextmanager
def _raw(postgres_url: str) -> Iterator[list[Callable[[], None]]]:
    """Each call is one INSERT of a row like an event's, with all of its indexes, and its commit."""
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(postgres_url, autocommit=True)) for _ in range(WRITERS)]
        connections[0].execute("CREATE TABLE IF NOT EXISTS floor_events (LIKE events INCLUDING ALL)")
        yield [_inserter(connection) for connection in connections]


def _inserter(connection: psycopg.Connection) -> Callable[[], None]:
    stream, versions = uuid4(), count(1)

    def insert() -> None:
        row = (stream, next(versions), ItemAppended.topic, _STATE, DEFAULT.tenant, mint("msg"), datetime.now(UTC))
        connection.execute(_INSERT, (*row, "bench", mint_uuid(), "bench", b"\0" * 32))

    return insert


@contextmanager
def _stock(postgres_url: str) -> Iterator[list[Callable[[], None]]]:
    """Each call is one `insert_events` of one event: the library as it comes."""
    given = conninfo_to_dict(postgres_url)
    datastore = PostgresDatastore(
        dbname=str(given["dbname"]),
        host=str(given["host"]),
        port=str(given.get("port", 5432)),
        user=str(given["user"]),
        password=str(given.get("password", "")),
        pool_size=WRITERS,
    )
    try:
        recorder = PostgresApplicationRecorder(datastore, events_table_name="stock_events")
        recorder.create_table()
        yield [_recording(recorder) for _ in range(WRITERS)]
    finally:
        datastore.close()


def _recording(recorder: PostgresApplicationRecorder) -> Callable[[], None]:
    stream, versions = uuid4(), count(1)

    def insert() -> None:
        recorder.insert_events([StoredEvent(stream, next(versions), ItemAppended.topic, _STATE)])

    return insert


def _threads(calls: Sequence[Callable[[], None]], seconds: float) -> float:
    """How often a second they return, each called again and again in a thread of its own."""
    for call in calls:
        call()
    stop = time.perf_counter() + seconds

    def repeat(call: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < stop:
            call()
            done += 1
        return done

    with ThreadPoolExecutor(len(calls)) as pool:
        return sum(pool.map(repeat, calls)) / seconds
