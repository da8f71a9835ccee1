"""The readers of the log: `EventReader` for the process itself, projectors and tools, and `PrincipalReader` for a request."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from psycopg import sql

from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import IdempotencyKey, KeyReused
from infrastructure.event_log.codec import decoded_size
from infrastructure.event_log.conversation_reader import ConversationReader
from infrastructure.event_log.feed import OrderedReader
from infrastructure.event_log.log_rows import COLUMNS_SQL, PAGE_COLUMNS_SQL
from infrastructure.event_log.recorded import Recorded, recorded_of
from infrastructure.event_log.version_lookup import LOOKUP_TIMEOUT_SECONDS, MAX_BATCH_LOOKUPS, Head, VersionLookup
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool

ITEMS_OF_TENANT = sql.SQL(
    "SELECT {page_columns} FROM (SELECT {columns}, sum(octet_length(state)) OVER () AS bytes FROM events"
    " WHERE tenant_id = %s AND item_id = ANY(%s)) AS found WHERE bytes <= %s ORDER BY originator_id, originator_version"
)
_HAS_ITEMS = sql.SQL("SELECT FROM events WHERE tenant_id = %s AND item_id = ANY(%s) LIMIT 1")
_CONVERSATION_OF = sql.SQL("SELECT conversation_id FROM responses WHERE tenant_id = %s AND response_id = %s")
_IS_LOCKED = sql.SQL("SELECT FROM responses WHERE tenant_id = %s AND conversation_id = %s AND running LIMIT 1")
_FIRST_ANSWER = sql.SQL(
    "SELECT fingerprint, answer, version, position, conversation_id FROM idempotency_keys AS k"
    " WHERE tenant_id = %s AND subject = %s AND key = %s AND recorded_at >= %s AND EXISTS (SELECT FROM events AS e"
    " WHERE e.originator_id = k.conversation_id AND e.originator_version = k.version AND e.command_id = k.command_id"
    " AND e.tenant_id = k.tenant_id)"
)
# LATERAL with its own ORDER BY makes each of these a look-up by primary key, whatever the planner's statistics say.
_PREFIXES = sql.SQL(
    "SELECT h.number, h.hash, p.conversation_id, p.item_id, p.version, p.depth, p.answered,"
    " CASE WHEN response.deleted IS NULL THEN p.response_id END, p.messages, p.exact FROM unnest(%s::bytea[]) WITH ORDINALITY AS h (hash, number) CROSS JOIN LATERAL (SELECT * FROM transcript_prefixes AS k"
    " WHERE k.tenant_id = %s AND k.hash = h.hash ORDER BY k.tenant_id DESC, k.hash DESC, k.conversation_id DESC, k.version DESC LIMIT %s) AS p"
    " CROSS JOIN LATERAL (SELECT FROM events AS e WHERE e.originator_id = p.conversation_id AND e.originator_version = p.version"
    " AND e.tenant_id = p.tenant_id AND e.item_id = p.item_id ORDER BY e.originator_version LIMIT 1) AS appended"
    " LEFT JOIN LATERAL (SELECT true AS retracted FROM events AS e WHERE e.item_id = p.item_id AND e.originator_id = p.conversation_id"
    " AND e.tenant_id = p.tenant_id AND e.topic = 'item.retracted' ORDER BY e.item_id, e.originator_id, e.originator_version LIMIT 1)"
    " AS retraction ON true LEFT JOIN LATERAL (SELECT true AS deleted FROM events AS e WHERE e.item_id = p.response_id"
    " AND e.originator_id = p.conversation_id AND e.tenant_id = p.tenant_id AND e.topic = 'reply.deleted'"
    " ORDER BY e.item_id, e.originator_id, e.originator_version LIMIT 1) AS response ON true WHERE retraction.retracted IS NULL"
    " ORDER BY h.number, p.conversation_id DESC, p.version DESC"
)
_HASHES = sql.SQL("SELECT hash FROM transcript_prefixes WHERE conversation_id = %s AND version = %s AND tenant_id = %s")
_FOLLOWED = sql.SQL(
    "SELECT later.item_id IS NOT NULL FROM unnest(%s::uuid[], %s::bigint[]) WITH ORDINALITY AS i (stream, version, number)"
    " LEFT JOIN LATERAL (SELECT e.item_id FROM events AS e WHERE e.originator_id = i.stream AND e.originator_version > i.version"
    " AND e.tenant_id = %s AND e.topic = 'item.appended' ORDER BY e.originator_version LIMIT 1) AS later ON true ORDER BY i.number"
)
_PARTITION_HOLDERS = sql.SQL("SELECT bucket, id, beat FROM projection_leases JOIN projectors ON id = holder")

MAX_PREFIXES = 32
"""How many prefixes with one hash are looked at. Many have the same hash if one subject begins many conversations with the same words."""


class FirstAnswer(Struct, frozen=True, kw_only=True):
    """The body stored with an idempotency key. `conversation_id`, `version` and `position` are those of its command's last event."""

    conversation_id: str
    answer: bytes
    version: int
    position: int


class FoundPrefix(Struct, frozen=True, kw_only=True):
    """The beginning of a transcript that the log has: it ends with this item. `version`: of the event that appended the item.

    `number`: which of the hashes that were looked up it has, from 0. `read_version`: the conversation's version. `response_id`: None if the
    response was deleted. The other fields: as in Prefix.
    """

    number: int
    hash: bytes
    read_version: int
    conversation_id: str
    item_id: str
    version: int
    depth: int
    answered: bool
    response_id: str | None
    messages: int
    exact: bytes


class PartitionHolder(Struct, frozen=True):
    """The projector that holds a partition of the views, and the last beat that it wrote."""

    partition: int
    projector: UUID
    beat: int


class EventReader(OrderedReader, ConversationReader):
    """Reads the log of all tenants. A request gets `of(principal)` instead, so that no query can forget the tenant."""

    def __init__(self, pool: Pool, lookup_timeout_seconds: float = LOOKUP_TIMEOUT_SECONDS) -> None:
        ConversationReader.__init__(self, pool, VersionLookup(pool, lookup_timeout_seconds), None)

    def of(self, principal: Principal) -> "PrincipalReader":
        """The reader of a request: it finds what this principal may read."""
        return PrincipalReader(self._pool, self._version_lookup, principal)

    def of_tenant(self, tenant: str) -> ConversationReader:
        """A reader of all conversations of one tenant, for reads that do not depend on what one principal may see."""
        return ConversationReader(self._pool, self._version_lookup, tenant)

    async def partition_holders(self) -> list[PartitionHolder]:
        """The holder of each partition. A partition without a registered projector is left out. A holder may have died since."""
        return [PartitionHolder(*row) for row in await self._rows(_PARTITION_HOLDERS, ())]


class PrincipalReader(ConversationReader):
    """Reads the conversations of the principal's tenant.

    `readable_head` and `readable` decide whether the principal may see a conversation. The other methods do not check this, because the path
    of a conversation may go through conversations that others own: what a fork inherited stays readable in the fork.
    """

    tenant: str

    def __init__(self, pool: Pool, version_lookup: VersionLookup, principal: Principal) -> None:
        super().__init__(pool, version_lookup, principal.tenant)
        self.principal = principal

    def readable(self, head: Head | None) -> Head | None:
        """The head, if the principal may read the conversation. None if it was never started, was deleted, or is not visible to the principal."""
        return None if head is None or head.deleted or head.role(self.principal) is None else head

    async def conversation_of(self, response_id: str) -> str | None:
        """The conversation that a response belongs to; None if the tenant has no such response."""
        rows = await self._rows(_CONVERSATION_OF, (self.tenant, response_id))
        return conversation_id_of(rows[0][0]) if rows else None

    async def is_locked(self, conversation_id: str) -> bool:
        """Whether a reply is running in the conversation."""
        return bool(await self._rows(_IS_LOCKED, (self.tenant, uuid_of(conversation_id))))

    async def first_answer(self, key: IdempotencyKey, since: datetime) -> FirstAnswer | None:
        """The answer that was stored with this key of the principal at `since` or later. None if there is none, or if the log has lost its events.

        Raises KeyReused if the key was used for another request. Does not check whether the caller may still read the answer's conversation.
        """
        rows = await self._rows(_FIRST_ANSWER, (self.tenant, self.principal.subject, key.key, since))
        if not rows:
            return None
        fingerprint, answer, version, position, stream_id = rows[0]
        if fingerprint != key.fingerprint:
            raise KeyReused
        conversation_id = conversation_id_of(stream_id)
        return FirstAnswer(conversation_id=conversation_id, answer=answer, version=version, position=position)

    async def prefixes_with(self, hashes: Sequence[bytes]) -> list[FoundPrefix]:
        """The prefixes with these hashes: of each hash those in the newest conversations, newest first, at most MAX_PREFIXES.

        Only those of conversations in which the principal may write, and whose item is still there.
        """
        rows = await self._rows(_PREFIXES, (list(hashes), self.tenant, MAX_PREFIXES))
        versions = await self._writable(list(dict.fromkeys(row[2] for row in rows)))
        return [
            FoundPrefix(
                number=number - 1,
                hash=hashed,
                conversation_id=conversation_id_of(stream),
                read_version=versions[stream],
                item_id=item_id,
                version=version,
                depth=depth,
                answered=answered,
                response_id=response_id,
                messages=messages or 0,
                exact=exact or b"",
            )
            for number, hashed, stream, item_id, version, depth, answered, response_id, messages, exact in rows
            if stream in versions
        ]

    async def hashes_of(self, prefix: FoundPrefix) -> list[bytes]:
        """The hashes of all prefixes that end with the item of this one."""
        rows = await self._rows(_HASHES, (uuid_of(prefix.conversation_id), prefix.version, self.tenant))
        return [hashed for (hashed,) in rows]

    async def conversation_named(self, hashed_name: bytes) -> str | None:
        """The conversation that got this name last, if the principal may write in it. `hashed_name`: as in `name_prefix`."""
        named = await self.prefixes_with([hashed_name])
        return max(named, key=lambda one: uuid_of(one.item_id)).conversation_id if named else None

    async def are_followed(self, prefixes: Sequence[FoundPrefix]) -> list[bool]:
        """For each prefix, whether its conversation has a later item than its last one."""
        streams = [uuid_of(prefix.conversation_id) for prefix in prefixes]
        rows = await self._rows(_FOLLOWED, (streams, [prefix.version for prefix in prefixes], self.tenant))
        return [followed for (followed,) in rows]

    async def _writable(self, streams: Sequence[UUID]) -> dict[UUID, int]:
        """The versions of those of these conversations in which the principal may write."""
        versions: dict[UUID, int] = {}
        for start in range(0, len(streams), MAX_BATCH_LOOKUPS):
            some = streams[start : start + MAX_BATCH_LOOKUPS]
            for stream, head in zip(some, await self.head_of_each(list(map(conversation_id_of, some))), strict=True):
                if head is not None and not head.deleted and head.role(self.principal) in ("owner", "writer"):
                    versions[stream] = head.version
        return versions

    async def items_of_tenant(self, item_ids: Sequence[str], max_bytes: int) -> list[Recorded] | None:
        """Every event of the tenant whose row key is one of these ids, ascending within a conversation.

        None if the events have more than `max_bytes` together.
        """
        statement = ITEMS_OF_TENANT.format(columns=COLUMNS_SQL, page_columns=PAGE_COLUMNS_SQL)
        rows = await self._rows(statement, (self.tenant, list(item_ids), max_bytes))
        if rows:
            return (
                [recorded_of(row) for row in rows] if sum(decoded_size(row[8]) for row in rows) <= max_bytes else None
            )
        return None if await self._rows(_HAS_ITEMS, (self.tenant, list(item_ids))) else []
