"""Reads the log: one conversation forwards or backwards, or all conversations in order of position."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from psycopg import sql

from domain.events import DESCRIPTION, INSTRUCTIONS, INSTRUCTIONS_AND_POLICY, PINS, POLICY, SUMMARY
from infrastructure.event_log.append_request import IdempotencyKey, KeyReused
from infrastructure.event_log.codec import decoded_size
from infrastructure.event_log.feed import COLUMNS_SQL, PAGE, PAGE_COLUMNS_SQL, OrderedReader
from infrastructure.event_log.recorded import Logged, Recorded, readable, recorded_of
from infrastructure.event_log.version_lookup import LOOKUP_TIMEOUT_SECONDS, Head, VersionLookup
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""The maximum of a page of one conversation, in bytes of decompressed states."""

# A page ends at about `max_bytes`. `before`: the bytes of the stored states of the rows before this one.
_FORWARDS = sql.SQL(
    PAGE.format(
        where="originator_id = %s AND originator_version > %s"
        " AND originator_version <= coalesce(%s, originator_version)",
        order="originator_version",
    )
)
_BACKWARDS = sql.SQL(
    PAGE.format(
        where="originator_id = %s AND originator_version <= coalesce(%s, originator_version)",
        order="originator_version DESC",
    )
)

_WITH_ROW_KEY = (
    "SELECT {0} FROM events WHERE originator_id = %(stream)s AND originator_version <= %(until)s AND item_id = "
)
_LAST = " ORDER BY originator_version DESC LIMIT 1"
SETTINGS_EVENTS = sql.SQL(
    f"{_WITH_ROW_KEY}'{DESCRIPTION}'"
    + "".join(
        f" UNION ALL ({_WITH_ROW_KEY}'{row_key}'{_LAST})"
        for row_key in (INSTRUCTIONS, POLICY, INSTRUCTIONS_AND_POLICY, PINS, SUMMARY)
    )
    + " ORDER BY originator_version"
)
_ITEMS = sql.SQL(
    "SELECT {0} FROM events WHERE originator_id = %s AND item_id = ANY(%s) AND originator_version <= coalesce(%s, originator_version)"
    " ORDER BY originator_version"
)
_DELETIONS = sql.SQL(  # the topics are those of the index in migrations/0017
    "SELECT {} FROM events WHERE originator_id = ANY(%s) AND notification_id > %s"
    " AND topic IN ('item.retracted', 'reply.deleted', 'conversation.deleted') ORDER BY notification_id"
)
_DELETED_RESPONSES = sql.SQL(
    "SELECT item_id FROM events WHERE originator_id = %s AND item_id = ANY(%s) AND topic = 'reply.deleted'"
)
ITEMS_OF_TENANT = sql.SQL(
    "SELECT {page_columns} FROM (SELECT {columns}, sum(octet_length(state)) OVER () AS bytes FROM events"
    " WHERE tenant_id = %s AND item_id = ANY(%s)) AS found WHERE bytes <= %s ORDER BY originator_id, originator_version"
)

# The rows of the items are few (an item has one, and one more for each time it was retracted); each conversation's last row is one look-up.
_DELETED_ITEMS = sql.SQL(
    "WITH named AS (SELECT item_id, originator_id, bool_or(topic = 'item.retracted') AS retracted FROM events"
    " WHERE tenant_id = %s AND item_id = ANY(%s) AND topic IN ('item.appended', 'item.retracted') GROUP BY item_id, originator_id),"
    " deleted AS (SELECT originator_id FROM (SELECT DISTINCT originator_id FROM named) AS conversation CROSS JOIN LATERAL"
    " (SELECT topic FROM events WHERE events.originator_id = conversation.originator_id ORDER BY originator_version DESC LIMIT 1) AS last"
    " WHERE topic = 'conversation.deleted')"
    " SELECT item_id FROM named WHERE retracted OR originator_id IN (SELECT originator_id FROM deleted)"
)


class FirstAnswer(Struct, frozen=True, kw_only=True):
    """The body stored with an idempotency key, and the conversation, version and position of its command's last event."""

    conversation_id: str
    answer: bytes
    version: int
    position: int


class PartitionHolder(Struct, frozen=True):
    """The projector that holds a partition of the views, and the last beat that it wrote."""

    partition: int
    projector: UUID
    beat: int


class EventReader(OrderedReader):
    """All methods raise psycopg.Error when Postgres is down, and UnreadableEvent for an event that this code cannot read.

    Methods named `…_logged` return such an event as an UnreadableRecord instead.
    """

    def __init__(self, pool: Pool, lookup_timeout_seconds: float = LOOKUP_TIMEOUT_SECONDS) -> None:
        super().__init__(pool)
        self._version_lookup = VersionLookup(pool, lookup_timeout_seconds)

    async def head(self, conversation_id: str) -> Head | None:
        """The conversation's last event; None if it was never started. One look-up by primary key."""
        return await self._version_lookup.head(conversation_id)

    async def head_of_each(self, conversation_ids: Sequence[str]) -> list[Head | None]:
        """The last event of each of these conversations, MAX_BATCH_LOOKUPS at most, in one round trip."""
        return await self._version_lookup.head_of_each(conversation_ids)

    async def conversation_of(self, tenant: str, response_id: str) -> str | None:
        """The conversation that a response belongs to; None if the tenant has no such response."""
        rows = await self._rows(
            sql.SQL("SELECT conversation_id FROM responses WHERE tenant_id = %s AND response_id = %s"),
            (tenant, response_id),
        )
        return conversation_id_of(rows[0][0]) if rows else None

    async def is_locked(self, conversation_id: str) -> bool:
        """Whether a reply is running in the conversation."""
        return bool(
            await self._rows(
                sql.SQL("SELECT FROM responses WHERE conversation_id = %s AND running LIMIT 1"),
                (uuid_of(conversation_id),),
            )
        )

    async def partition_holders(self) -> list[PartitionHolder]:
        """The holder of each partition that a registered projector holds. The projector may have died since."""
        rows = await self._rows(
            sql.SQL("SELECT bucket, id, beat FROM projection_leases JOIN projectors ON id = holder"), ()
        )
        return [PartitionHolder(*row) for row in rows]

    async def first_answer(self, tenant: str, key: IdempotencyKey, since: datetime) -> FirstAnswer | None:
        """The answer stored with an idempotency key at `since` or later; None if there is none, or the log has lost its events.

        Raises KeyReused if the key was used for another request. Whether the caller may still read its conversation is not checked.
        """
        rows = await self._rows(
            sql.SQL(
                "SELECT fingerprint, answer, version, position, conversation_id FROM idempotency_keys AS k"
                " WHERE tenant_id = %s AND key = %s AND recorded_at >= %s AND EXISTS (SELECT FROM events AS e"
                " WHERE e.originator_id = k.conversation_id AND e.originator_version = k.version AND e.command_id = k.command_id)"
            ),
            (tenant, key.key, since),
        )
        if not rows:
            return None
        fingerprint, answer, version, position, stream_id = rows[0]
        if fingerprint != key.fingerprint:
            raise KeyReused
        conversation_id = conversation_id_of(stream_id)
        return FirstAnswer(conversation_id=conversation_id, answer=answer, version=version, position=position)

    async def conversation(
        self,
        conversation_id: str,
        *,
        limit: int,
        after: int = 0,
        until: int | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> list[Recorded]:
        """One conversation's events with `after` < version <= `until`, ascending. The page is limited as in `batch`."""
        return readable(await self._page(_FORWARDS, (uuid_of(conversation_id), after, until, limit), max_bytes))

    async def conversation_logged(
        self, conversation_id: str, *, limit: int, after: int = 0, max_bytes: int = MAX_PAGE_BYTES
    ) -> list[Logged]:
        """As `conversation`, with an UnreadableRecord for each unreadable event."""
        return await self._page(_FORWARDS, (uuid_of(conversation_id), after, None, limit), max_bytes)

    async def conversation_backwards(
        self, conversation_id: str, *, until: int, limit: int, max_bytes: int = MAX_PAGE_BYTES
    ) -> list[Recorded]:
        """One conversation's events with version <= `until`, newest first. The page is limited as in `batch`."""
        return readable(await self._page(_BACKWARDS, (uuid_of(conversation_id), until, limit), max_bytes))

    async def item(self, conversation_id: str, item_id: str) -> list[Recorded]:
        """Every event whose row key is this id of an item or response, ascending."""
        return await self._recorded(
            sql.SQL("SELECT {} FROM events WHERE originator_id = %s AND item_id = %s ORDER BY originator_version"),
            (uuid_of(conversation_id), item_id),
        )

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event with version <= `until` whose row key is one of these ids, ascending."""
        return await self._recorded(_ITEMS, (uuid_of(conversation_id), list(item_ids), until))

    async def items_of_tenant(self, tenant: str, item_ids: Sequence[str], max_bytes: int) -> list[Recorded] | None:
        """Every event of the tenant whose row key is one of these ids, ascending within a conversation. None: they have more than `max_bytes`."""
        rows = await self._rows(
            ITEMS_OF_TENANT.format(columns=COLUMNS_SQL, page_columns=PAGE_COLUMNS_SQL),
            (tenant, list(item_ids), max_bytes),
        )
        if rows:
            return (
                [recorded_of(row) for row in rows] if sum(decoded_size(row[8]) for row in rows) <= max_bytes else None
            )
        exists = sql.SQL("SELECT FROM events WHERE tenant_id = %s AND item_id = ANY(%s) LIMIT 1")
        return None if await self._rows(exists, (tenant, list(item_ids))) else []

    async def deleted_items(self, tenant: str, item_ids: Collection[str]) -> set[str]:
        """Which of these items of the tenant were retracted, or are in a deleted conversation. As of now, whatever their versions."""
        return {item_id for (item_id,) in await self._rows(_DELETED_ITEMS, (tenant, list(item_ids)))}

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event after position `after` that deletes an item, a response, or one of these conversations, by position."""
        return await self._recorded(_DELETIONS, (list(map(uuid_of, conversation_ids)), after))

    async def deleted_responses(self, conversation_id: str, response_ids: Sequence[str]) -> frozenset[str]:
        """Those of these responses of the conversation that a client deleted."""
        rows = await self._rows(_DELETED_RESPONSES, (uuid_of(conversation_id), list(response_ids)))
        return frozenset(response_id for (response_id,) in rows)

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        """The events with version <= `until` that hold a conversation's settings, ascending.

        They are its first event, and the last event for each of: instructions, context policy, pins and summary. They are few, however long
        the conversation is. Older code recorded changes of settings under the key DESCRIPTION: all of those are included.
        """
        return await self._recorded(SETTINGS_EVENTS, {"stream": uuid_of(conversation_id), "until": until})
