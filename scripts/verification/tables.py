"""Compares the log with the tables beside it.

A row is written with its event, or later. So a statement that sees a row also sees its event, even during appends.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import UUID

from msgspec import structs
from psycopg import sql

from domain.conversation import fold
from domain.events import REPLY_ENDS, ConversationDeleted, ReplyQueued, ReplyRequested
from infrastructure.event_log.streams import SNAPSHOT_FORMAT_BYTE, from_snapshot
from infrastructure.event_log.streams import Stream as StreamSnapshot
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool
from scripts.verification.differences import Difference, fields_that_differ
from scripts.verification.streams import Stream, Streams

SNAPSHOTS, RESPONSES, KEYS = "table snapshots", "table responses", "table idempotency_keys"
POSITIONS, PREFIXES = "table tenant_positions", "table transcript_prefixes"
_PAGE_ROWS = 1_000

# Pages follow the primary key. With LATERAL, Postgres finds the log's rows by index.
_SNAPSHOT_PAGE = sql.SQL("""
    SELECT s.originator_id, s.originator_version, EXISTS (
        SELECT FROM events AS e WHERE e.originator_id = s.originator_id AND e.originator_version = s.originator_version)
    FROM snapshots AS s WHERE s.originator_id > %(after)s AND s.originator_id = coalesce(%(only)s, s.originator_id)
    ORDER BY s.originator_id LIMIT %(rows)s
""")
_RESPONSE_PAGE = sql.SQL("""
    SELECT r.tenant_id, r.response_id, r.conversation_id, r.running, log.requested,
        log.requested AND NOT log.ended AND NOT coalesce(newest.deleted, false)
    FROM (
        SELECT * FROM responses WHERE (tenant_id, response_id) > (%(tenant)s, %(after)s)
            AND conversation_id = coalesce(%(only)s, conversation_id)
        ORDER BY tenant_id, response_id LIMIT %(rows)s
    ) AS r CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(topic = ANY (%(requested)s) AND tenant_id = r.tenant_id), false) AS requested,
            coalesce(bool_or(topic = ANY (%(ends)s)), false) AS ended
        FROM events WHERE originator_id = r.conversation_id AND item_id = r.response_id
    ) AS log LEFT JOIN LATERAL (
        SELECT topic = %(deleted)s AS deleted FROM events WHERE originator_id = r.conversation_id
        ORDER BY originator_version DESC LIMIT 1
    ) AS newest ON true
    ORDER BY r.tenant_id, r.response_id
""")
_KEY_PAGE = sql.SQL("""
    SELECT k.tenant_id, k.key, k.subject, k.conversation_id, k.version, k.position, k.command_id, e.*
    FROM (
        SELECT * FROM idempotency_keys WHERE (tenant_id, key, subject) > (%(tenant)s, %(after)s, %(subject)s)
            AND conversation_id = coalesce(%(only)s, conversation_id)
        ORDER BY tenant_id, key, subject LIMIT %(rows)s
    ) AS k LEFT JOIN LATERAL (
        SELECT notification_id, tenant_id, subject, command_id FROM events
        WHERE originator_id = k.conversation_id AND originator_version = k.version
        ORDER BY originator_version LIMIT 1
    ) AS e ON true
    ORDER BY k.tenant_id, k.key, k.subject
""")
_PREFIX_PAGE = sql.SQL("""
    SELECT p.tenant_id, p.hash, p.conversation_id, p.version, p.item_id, coalesce(item.appended, false), coalesce(item.retracted, false),
        coalesce(newest.deleted, false)
    FROM (
        SELECT * FROM transcript_prefixes WHERE (tenant_id, hash, conversation_id, version)
            > (%(tenant)s, %(hash)s, %(conversation)s, %(version)s) AND conversation_id = coalesce(%(only)s, conversation_id)
        ORDER BY tenant_id, hash, conversation_id, version LIMIT %(rows)s
    ) AS p CROSS JOIN LATERAL (
        SELECT bool_or(topic = 'item.appended' AND originator_version = p.version AND tenant_id = p.tenant_id) AS appended,
            bool_or(topic = 'item.retracted') AS retracted
        FROM events WHERE originator_id = p.conversation_id AND item_id = p.item_id
    ) AS item LEFT JOIN LATERAL (
        SELECT topic = %(deleted)s AS deleted FROM events WHERE originator_id = p.conversation_id
        ORDER BY originator_version DESC LIMIT 1
    ) AS newest ON true
    ORDER BY p.tenant_id, p.hash, p.conversation_id, p.version
""")
_TOPICS = {
    "requested": [ReplyQueued.topic, ReplyRequested.topic],
    "ends": [end.topic for end in REPLY_ENDS],
    "deleted": ConversationDeleted.topic,
}


class Tables:
    """At the end, call `behind` and `not_in_log`."""

    def __init__(self, pool: Pool, only: str | None = None) -> None:
        self._pool = pool
        self._only = uuid_of(only) if only else None
        self._newest: dict[str, int] = {}
        """Each tenant's newest position so far."""
        self.compared: dict[str, int] = dict.fromkeys(
            ("snapshots", "responses", "idempotency_keys", "transcript_prefixes"), 0
        )

    async def compare(self, streams: Sequence[Stream]) -> AsyncIterator[Difference]:
        """Compares snapshots with a fold of the events. Also finds replies that `responses` lacks or has in another conversation."""
        by_id = {uuid_of(stream.conversation_id): stream for stream in streams}
        for stream in streams:
            if stream.events:
                self._newest[stream.tenant] = max(self._newest.get(stream.tenant, 0), stream.events[-1].position)
        statement = "SELECT originator_id, originator_version, state FROM snapshots WHERE originator_id = ANY(%(ids)s)"
        for stream_id, version, state in await self._rows(sql.SQL(statement), {"ids": list(by_id)}):
            stream = by_id[stream_id]
            if stream.events and version > stream.events[-1].version:
                stream = (await Streams(self._pool, stream.conversation_id).next() or [stream])[0]
            for difference in _snapshot_differences(stream, version, state):
                yield difference
        async for difference in self._missing_responses(streams):
            yield difference

    async def _missing_responses(self, streams: Sequence[Stream]) -> AsyncIterator[Difference]:
        requested: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for stream in streams:
            for recorded in stream.events:
                if isinstance(recorded.event, ReplyQueued | ReplyRequested):
                    requested[stream.tenant][recorded.event.response_id] = stream.conversation_id
        statement = sql.SQL(
            "SELECT response_id, conversation_id FROM responses WHERE tenant_id = %(tenant)s AND response_id = ANY(%(ids)s)"
        )
        for tenant, of_tenant in requested.items():
            found = dict(await self._rows(statement, {"tenant": tenant, "ids": list(of_tenant)}))
            for response_id, conversation_id in of_tenant.items():
                if response_id not in found:
                    yield Difference(RESPONSES, "missing", conversation_id, response_id)
                elif conversation_id_of(found[response_id]) != conversation_id:
                    fields = {"conversation_id": (conversation_id, conversation_id_of(found[response_id]))}
                    yield Difference(RESPONSES, "different", conversation_id, response_id, fields=fields)

    async def behind(self) -> AsyncIterator[Difference]:
        """Tenants whose stored position is before one of their events, so a list may lack this event."""
        statement = sql.SQL("SELECT tenant_id, position FROM tenant_positions WHERE tenant_id = ANY(%(tenants)s)")
        found = dict(await self._rows(statement, {"tenants": list(self._newest)}))
        for tenant, newest in self._newest.items():
            if found.get(tenant, 0) < newest:
                yield Difference(
                    POSITIONS, "behind", key=tenant, fields={"position": (str(newest), str(found.get(tenant)))}
                )

    async def not_in_log(self) -> AsyncIterator[Difference]:
        async for stream_id, version, is_in_log in self._pages(_SNAPSHOT_PAGE, "snapshots", UUID(int=0)):
            if not is_in_log:
                note = "the log does not have this version"
                yield Difference(SNAPSHOTS, "extra", conversation_id_of(stream_id), version=version, note=note)
        async for _, response_id, stream_id, running, requested, runs_in_log in self._pages(
            _RESPONSE_PAGE, "responses"
        ):
            conversation_id = conversation_id_of(stream_id)
            if not requested:
                note = "the log does not have its request"
                yield Difference(RESPONSES, "extra", conversation_id, response_id, note=note)
            elif running != runs_in_log:
                fields = {"running": (str(runs_in_log), str(running))}
                yield Difference(RESPONSES, "different", conversation_id, response_id, fields=fields)
        async for row in self._pages(_KEY_PAGE, "idempotency_keys"):
            tenant, _, subject, stream_id, version, position, command_id, *found = row
            conversation_id = conversation_id_of(stream_id)
            if found[0] is None:
                note = "the log does not have the events of this key's command"
                yield Difference(KEYS, "extra", conversation_id, version=version, note=note)
            elif found != (stored := [position, tenant, subject, command_id]):
                names = ("position", "tenant", "subject", "command_id")
                fields = fields_that_differ(dict(zip(names, found, strict=True)), dict(zip(names, stored, strict=True)))
                yield Difference(KEYS, "different", conversation_id, version=version, fields=fields)

        async for difference in self._prefixes_not_in_log():
            yield difference

    async def _prefixes_not_in_log(self) -> AsyncIterator[Difference]:
        """A missing prefix is no difference. A transcript then continues after an earlier message, or begins a new
        conversation.
        """
        after: dict[str, Any] = {"tenant": "", "hash": b"", "conversation": UUID(int=0), "version": 0}
        while True:
            parameters = {**after, "only": self._only, "rows": _PAGE_ROWS, **_TOPICS}
            rows = await self._rows(_PREFIX_PAGE, parameters)
            for _, _, stream_id, version, item_id, is_in_log, is_retracted, is_deleted in rows:
                self.compared["transcript_prefixes"] += 1
                if not is_in_log or is_retracted or is_deleted:
                    note = "its item is deleted" if is_in_log else "the log does not have its item"
                    yield Difference(PREFIXES, "extra", conversation_id_of(stream_id), item_id, version, note=note)
            if len(rows) < _PAGE_ROWS:
                return
            after = dict(zip(after, rows[-1], strict=False))

    async def _pages(self, statement: sql.SQL, table: str, after: Any = "") -> AsyncIterator[tuple[Any, ...]]:
        """The first columns of a row are the primary key."""
        tenant = subject = ""
        while True:
            parameters = {
                "tenant": tenant,
                "after": after,
                "subject": subject,
                "only": self._only,
                "rows": _PAGE_ROWS,
                **_TOPICS,
            }
            page = await self._rows(statement, parameters)
            for row in page:
                yield row
            self.compared[table] += len(page)
            if len(page) < _PAGE_ROWS:
                return
            tenant, after, subject = page[-1][:3] if isinstance(after, str) else ("", page[-1][0], "")

    async def _rows(self, statement: sql.SQL, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, parameters)).fetchall()


def _snapshot_differences(stream: Stream, version: int, state: bytes) -> Iterator[Difference]:
    found = from_snapshot(state)
    if found is None:
        if state.startswith(SNAPSHOT_FORMAT_BYTE):
            yield Difference(SNAPSHOTS, "unreadable", stream.conversation_id, version=version)
        return  # another version of the code made the snapshot
    events = [recorded for recorded in stream.events if recorded.version <= found.state.version]
    if not events or events[-1].version != found.state.version:
        if found.state.version != version:
            fields = {"version": (str(version), str(found.state.version))}
            yield Difference(SNAPSHOTS, "different", stream.conversation_id, version=version, fields=fields)
        return  # a version is missing, which `not_in_log` reports, or an earlier event cannot be read
    try:
        folded = fold(recorded.event for recorded in events)
    except ValueError:
        return  # the events contradict each other, which is reported with the views
    assert folded is not None
    expected = StreamSnapshot(
        structs.replace(folded, version=found.state.version),
        events[-1].position,
        events[-1].recorded_at,
        stream.chain_hashes[found.state.version],
        version,
    )
    if fields := fields_that_differ(_fields(expected), _fields(found)):
        yield Difference(SNAPSHOTS, "different", stream.conversation_id, version=version, fields=fields)


def _fields(snapshot: StreamSnapshot) -> dict[str, Any]:
    fields = {**structs.asdict(snapshot), **structs.asdict(snapshot.state), "chain_hash": snapshot.chain_hash.hex()}
    del fields["state"]
    return fields
