"""Looks up the last version of conversations by primary key. Concurrent look-ups share round trips.

Most reads and replies start with a look-up. With a pooled connection and a cursor, a look-up would take as much
event-loop time as the rest of a read.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.types.json import set_json_loads

from domain.access import Role, role_of
from domain.events import HEAD, SHARES, ConversationShared, ConversationUnshared, HeadMoved, PathBranch, Share
from domain.paths import FIRST_BRANCH
from infrastructure.access.principal import Principal
from infrastructure.event_log.codec import decode
from infrastructure.event_log.incarnation import INCARNATION, StreamVersion
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool

LOOKUP_TIMEOUT_SECONDS = 2.0
MAX_BATCH_LOOKUPS = 256

# The tenant is compared after the look-up. A condition inside the subquery would make Postgres read all rows of
# another tenant's stream.
_TEMPLATE = """
    SELECT json_agg(CASE WHEN version IS NOT NULL THEN
        json_build_array(head.tenant_id, version, position, deleted, chain_hash, {incarnation}, owner, shares, moved) END ORDER BY number)
    FROM {streams} AS requested (stream, requested_tenant, number) LEFT JOIN LATERAL (
        SELECT tenant_id, originator_version, notification_id, topic = 'conversation.deleted', encode(chain_hash, 'hex')
        FROM events WHERE originator_id = stream ORDER BY originator_version DESC LIMIT 1
    ) AS head (tenant_id, version, position, deleted, chain_hash) ON head.tenant_id = coalesce(requested_tenant, head.tenant_id)
    LEFT JOIN LATERAL (
        SELECT subject FROM events WHERE originator_id = stream AND originator_version = 1
    ) AS started (owner) ON true
    LEFT JOIN LATERAL (
        SELECT json_build_array(topic, translate(encode(state, 'base64'), chr(10), ''))
        FROM events WHERE item_id = '{shares}' AND originator_id = stream ORDER BY originator_version DESC LIMIT 1
    ) AS shared (shares) ON true
    LEFT JOIN LATERAL (
        SELECT json_build_array(originator_version, topic, translate(encode(state, 'base64'), chr(10), ''))
        FROM events WHERE item_id = '{head}' AND originator_id = stream ORDER BY originator_version DESC LIMIT 1
    ) AS head_moved (moved) ON true
"""


def heads_sql(streams: str) -> str:
    """SQL that selects the Heads of streams as one JSON array, by number. `streams`: SQL for rows (stream, tenant, number)."""
    return _TEMPLATE.format(streams=streams, incarnation=INCARNATION, shares=SHARES, head=HEAD)


_STATEMENT = heads_sql("unnest($1, $2) WITH ORDINALITY")


class Head(Struct, frozen=True, array_like=True):
    """The last event of a conversation, with the conversation's owner, shares and path.

    deleted       whether the last event deleted the conversation
    owner         None if the first event is missing
    shares_event  topic and state of the event with the shares; None if the conversation was never shared
    moved_event   version, topic and state of the last HeadMoved; None if the head was never moved
    """

    tenant: str
    version: int
    position: int
    deleted: bool
    chain_hash: str
    incarnation: str
    owner: str | None = None
    shares_event: tuple[str, bytes] | None = None
    moved_event: tuple[int, str, bytes] | None = None

    def role(self, principal: Principal) -> Role | None:
        """None if the principal may not see the conversation. Raises UnreadableEvent."""
        return role_of(self.owner, self.shares, principal.actor) if principal.tenant == self.tenant else None

    @property
    def shares(self) -> tuple[Share, ...]:
        """Raises UnreadableEvent."""
        event = decode(*self.shares_event) if self.shares_event else None
        return event.shares if isinstance(event, ConversationShared | ConversationUnshared) else ()

    @property
    def active_path(self) -> tuple[PathBranch, ...]:
        """Raises UnreadableEvent."""
        event = decode(*self.moved_event[1:]) if self.moved_event else None
        return event.path if isinstance(event, HeadMoved) else FIRST_BRANCH

    @property
    def stream_version(self) -> StreamVersion:
        return StreamVersion(self.version, self.chain_hash, self.incarnation)


_Lookup = tuple[UUID, str | None]
"""The stream and its tenant; None: any tenant."""

_Lookups = list[tuple[_Lookup, "asyncio.Future[Head | None]"]]
_decode_heads = msgspec.json.Decoder(list[Head | None]).decode


class VersionLookup:
    """Use it on one event loop. Closing the pool closes the connection."""

    def __init__(self, pool: Pool, timeout_seconds: float = LOOKUP_TIMEOUT_SECONDS) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._pipeline = pool.pipeline("version_lookup", ["uuid[]", "text[]"], _STATEMENT, _set_up)
        self._queued: _Lookups = []
        self._task: asyncio.Task[None] | None = None

    async def head(self, conversation_id: str, tenant: str | None) -> Head | None:
        """The head, read after this call. None if the tenant (None: any) has no such conversation. Raises psycopg.Error."""
        future: asyncio.Future[Head | None] = asyncio.get_running_loop().create_future()
        self._queued.append(((uuid_of(conversation_id), tenant), future))
        if self._task is None:
            self._task = asyncio.create_task(self._look_up_queued())
        return await future

    async def head_of_each(self, conversation_ids: Sequence[str], tenant: str | None) -> list[Head | None]:
        """As `head`, in one round trip. At most MAX_BATCH_LOOKUPS conversations."""
        return await self._look_up([(uuid_of(conversation_id), tenant) for conversation_id in conversation_ids])

    async def _look_up_queued(self) -> None:
        batch: _Lookups = []
        try:
            while self._queued:
                batch, self._queued = self._queued[:MAX_BATCH_LOOKUPS], self._queued[MAX_BATCH_LOOKUPS:]
                try:
                    heads = await self._look_up([lookup for lookup, _ in batch])
                except psycopg.Error as error:
                    _fail(batch, error)
                else:
                    for (_, future), head in zip(batch, heads, strict=True):
                        if not future.done():
                            future.set_result(head)
        finally:
            self._task = None
            _fail([*batch, *self._queued], psycopg.OperationalError("Version lookups were shut down."))
            self._queued = []

    async def _look_up(self, lookups: list[_Lookup]) -> list[Head | None]:
        parameters = [[stream for stream, _ in lookups], [tenant for _, tenant in lookups]]
        heads: list[Head | None] = await self._pool.read(self._pipeline, parameters, self._timeout_seconds)
        return heads


async def _set_up(connection: psycopg.AsyncConnection[Any]) -> None:
    """Plans the statement once: 0.36 ms for a look-up instead of 0.61 ms."""
    set_json_loads(_decode_heads, connection)
    await connection.execute("SET plan_cache_mode = force_generic_plan")


def _fail(lookups: _Lookups, error: psycopg.Error) -> None:
    for _, future in lookups:
        if not future.done():  # a cancelled caller's future is done
            future.set_exception(error)
