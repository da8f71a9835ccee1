"""The readers of the log: `EventReader` for the process itself, and `PrincipalReader` for a request."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from psycopg import sql

from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import IdempotencyKey, KeyReused
from infrastructure.event_log.codec import decoded_size
from infrastructure.event_log.conversation_reader import ConversationReader
from infrastructure.event_log.feed import OrderedReader
from infrastructure.event_log.incarnation import LogPosition
from infrastructure.event_log.log_rows import COLUMNS_SQL, PAGE_COLUMNS_SQL
from infrastructure.event_log.prefix_lookup import PrefixLookup
from infrastructure.event_log.recorded import Recorded, recorded_of
from infrastructure.event_log.tenant_end import TenantEndLookup
from infrastructure.event_log.version_lookup import LOOKUP_TIMEOUT_SECONDS, Head, VersionLookup
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
_HASHES = sql.SQL("SELECT hash FROM transcript_prefixes WHERE conversation_id = %s AND version = %s AND tenant_id = %s")
_FOLLOWED = sql.SQL(
    "SELECT later.item_id IS NOT NULL FROM unnest(%s::uuid[], %s::bigint[]) WITH ORDINALITY AS i (stream, version, number)"
    " LEFT JOIN LATERAL (SELECT e.item_id FROM events AS e WHERE e.originator_id = i.stream AND e.originator_version > i.version"
    " AND e.tenant_id = %s AND e.topic = 'item.appended' ORDER BY e.originator_version LIMIT 1) AS later ON true ORDER BY i.number"
)
_PARTITION_HOLDERS = sql.SQL("SELECT bucket, id, beat FROM projection_leases JOIN projectors ON id = holder")


class FirstAnswer(Struct, frozen=True, kw_only=True):
    """The answer stored with an idempotency key. The other fields are those of the command's last event."""

    conversation_id: str
    answer: bytes
    version: int
    position: int


class FoundPrefix(Struct, frozen=True, kw_only=True):
    """A prefix that was found. Fields that are not listed here are as in `domain.commands.Prefix` and ItemAppended.

    number        the index of the hash among the hashes that were looked up
    read_version  the conversation's version at the look-up
    is_private    the conversation is the principal's own, and is shared with nobody
    version       the version of the event that appended the item
    """

    number: int
    hash: bytes
    read_version: int
    conversation_id: str
    is_private: bool
    item_id: str
    version: int
    depth: int
    answered: bool
    response_id: str | None
    messages: int
    exact: bytes
    branch: int | None


class PartitionHolder(Struct, frozen=True):
    """The projector that updates a partition of the views. `beat`: its last heartbeat (`projections/leases.py`)."""

    partition: int
    projector: UUID
    beat: int


class EventReader(OrderedReader, ConversationReader):
    """Reads all tenants. A request gets `of(principal)`, so no query can forget the tenant."""

    def __init__(self, pool: Pool, lookup_timeout_seconds: float = LOOKUP_TIMEOUT_SECONDS) -> None:
        ConversationReader.__init__(self, pool, VersionLookup(pool, lookup_timeout_seconds), None)
        self._prefix_lookup = PrefixLookup(pool, lookup_timeout_seconds)
        self._tenant_end = TenantEndLookup(pool, lookup_timeout_seconds)

    def of(self, principal: Principal) -> "PrincipalReader":
        return PrincipalReader(self._pool, self._version_lookup, self._prefix_lookup, principal)

    def of_tenant(self, tenant: str) -> ConversationReader:
        """For reads that do not depend on what one principal may see."""
        return ConversationReader(self._pool, self._version_lookup, tenant)

    async def end_of_tenant(self, tenant: str) -> LogPosition:
        """The end of the tenant's part of the log, without a chain hash. If rows were removed by hand, the position may be too high."""
        return await self._tenant_end.end_of(tenant)

    async def partition_holders(self) -> list[PartitionHolder]:
        """Partitions without a registered projector are left out. A holder may have died meanwhile."""
        return [PartitionHolder(*row) for row in await self._rows(_PARTITION_HOLDERS, ())]


class PrincipalReader(ConversationReader):
    """Reads the conversations of the principal's tenant.

    Only `readable_head`, `readable`, `prefixes_with` and `conversation_named` check the principal's role. A fork may
    inherit items of a conversation that the principal may not read. These items stay readable in the fork.
    """

    tenant: str

    def __init__(
        self, pool: Pool, version_lookup: VersionLookup, prefix_lookup: PrefixLookup, principal: Principal
    ) -> None:
        super().__init__(pool, version_lookup, principal.tenant)
        self._prefix_lookup = prefix_lookup
        self.principal = principal
        self.given_content_row: Callable[[bytes, int], bytes | None] | None = None
        """As `content_row`, for contents that came with the request and are not stored. Blocking: reads a local file."""

    def readable(self, head: Head | None) -> Head | None:
        """None if the conversation does not exist or the principal may not see it."""
        return None if head is None or head.deleted or head.role(self.principal) is None else head

    async def content_row(self, sha256: bytes, number: int) -> bytes | None:
        given = self.given_content_row and self.given_content_row(sha256, number)
        if not given:
            return await super().content_row(sha256, number)
        await asyncio.sleep(0)  # other requests are served between two rows
        return given

    async def conversation_of(self, response_id: str) -> str | None:
        rows = await self._rows(_CONVERSATION_OF, (self.tenant, response_id))
        return conversation_id_of(rows[0][0]) if rows else None

    async def is_locked(self, conversation_id: str) -> bool:
        """Whether a reply runs or waits in the conversation."""
        return bool(await self._rows(_IS_LOCKED, (self.tenant, uuid_of(conversation_id))))

    async def first_answer(self, key: IdempotencyKey, since: datetime) -> FirstAnswer | None:
        """The answer stored at `since` or later. None if no answer is stored, or if the log has lost the command's
        last event.

        Raises KeyReused. Does not check whether the caller may still read the conversation.
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
        """Prefixes with these hashes, of conversations where the principal may write. Prefixes with the same hash are sorted by conversation,
        newest first.

        Prefixes whose item was ever retracted, or whose conversation is deleted, are left out.
        """
        found = await self._prefix_lookup.find(hashes, self.tenant)
        return [
            FoundPrefix(
                number=row.number,
                hash=row.hash,
                conversation_id=conversation_id_of(row.conversation_id),
                read_version=head.version,
                is_private=head.owner == self.principal.subject and not head.shares,
                item_id=row.item_id,
                version=row.version,
                depth=row.depth,
                answered=row.answered,
                response_id=row.response_id,
                messages=row.messages,
                exact=row.exact,
                branch=row.branch,
            )
            for row, head in found
            if head is not None and not head.deleted and head.role(self.principal) in ("owner", "writer")
        ]

    async def hashes_of(self, prefix: FoundPrefix) -> list[bytes]:
        """The hashes of all prefixes that end with the same item as `prefix`."""
        rows = await self._rows(_HASHES, (uuid_of(prefix.conversation_id), prefix.version, self.tenant))
        return [hashed for (hashed,) in rows]

    async def conversation_named(self, hashed_name: bytes) -> str | None:
        """The conversation that got this name last, among those where the principal may write. `hashed_name`: from `name_hash`."""
        named = await self.prefixes_with([hashed_name])
        return max(named, key=lambda one: uuid_of(one.item_id)).conversation_id if named else None

    async def are_followed(self, prefixes: Sequence[FoundPrefix]) -> list[bool]:
        """Whether the conversation got another item after the prefix, on any branch."""
        streams = [uuid_of(prefix.conversation_id) for prefix in prefixes]
        rows = await self._rows(_FOLLOWED, (streams, [prefix.version for prefix in prefixes], self.tenant))
        return [followed for (followed,) in rows]

    async def items_of_tenant(self, item_ids: Sequence[str], max_bytes: int) -> list[Recorded] | None:
        """Events whose row key is in `item_ids`, ascending within a conversation. None if they exceed `max_bytes`."""
        statement = ITEMS_OF_TENANT.format(columns=COLUMNS_SQL, page_columns=PAGE_COLUMNS_SQL)
        rows = await self._rows(statement, (self.tenant, list(item_ids), max_bytes))
        if rows:
            return (
                [recorded_of(row) for row in rows] if sum(decoded_size(row[8]) for row in rows) <= max_bytes else None
            )
        return None if await self._rows(_HAS_ITEMS, (self.tenant, list(item_ids))) else []
