"""Reading the log back: one conversation forwards or backwards, all of it in order of position, and where things stand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from psycopg import sql

from domain.events import DESCRIPTION, INSTRUCTIONS, INSTRUCTIONS_AND_POLICY, PINS, POLICY, SUMMARY
from infrastructure.event_log.append_request import IdempotencyKey, KeyReused
from infrastructure.event_log.codec import decoded_size
from infrastructure.event_log.recorded import Logged, Recorded, as_logged, readable, recorded_of
from infrastructure.event_log.version_lookup import Head, VersionLookup
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool


class FirstAnswer(Struct, frozen=True, kw_only=True):
    """The body that an idempotency key is kept with, and where its command ended in the log."""

    answer: bytes
    version: int
    position: int


_COLUMNS = sql.SQL(
    "notification_id, originator_id, originator_version, tenant_id, recorded_at, subject, correlation_id, topic, state"
)

PAGE_BYTES = 16 * 1024 * 1024
"""Of states, as they are once they are read: where a page of one conversation ends, however few events it has."""

# `before`: the bytes of the states in front of the row.
_PAGE = (
    "SELECT {{0}} FROM (SELECT {{0}}, sum(octet_length(state)) OVER (ORDER BY {order}) - octet_length(state) AS before"
    " FROM events WHERE {where} ORDER BY {order} LIMIT %s) AS page WHERE before < %s ORDER BY {order}"
)
_BATCH = sql.SQL(
    _PAGE.format(
        where="notification_id > %s AND notification_id <= coalesce(%s, notification_id)", order="notification_id"
    )
)
_FORWARDS = sql.SQL(
    _PAGE.format(
        where="originator_id = %s AND originator_version > %s"
        " AND originator_version <= coalesce(%s, originator_version)",
        order="originator_version",
    )
)
_BACKWARDS = sql.SQL(
    _PAGE.format(
        where="originator_id = %s AND originator_version <= coalesce(%s, originator_version)",
        order="originator_version DESC",
    )
)

_NAMED = "SELECT {0} FROM events WHERE originator_id = %(stream)s AND originator_version <= %(until)s AND item_id = "
_LAST = " ORDER BY originator_version DESC LIMIT 1"
SETTINGS_EVENTS = sql.SQL(
    f"{_NAMED}'{DESCRIPTION}'"
    + "".join(
        f" UNION ALL ({_NAMED}'{name}'{_LAST})"
        for name in (INSTRUCTIONS, POLICY, INSTRUCTIONS_AND_POLICY, PINS, SUMMARY)
    )
    + " ORDER BY originator_version"
)
_ITEMS = sql.SQL(
    "SELECT {0} FROM events WHERE originator_id = %s AND item_id = ANY(%s) AND originator_version <= coalesce(%s, originator_version)"
    " ORDER BY originator_version"
)


class EventReader:
    """Reads the log. Raises psycopg.Error when Postgres is away, UnreadableEvent for a row this code can not read."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._heads = VersionLookup(pool)

    async def head(self, conversation_id: str) -> Head | None:
        """The conversation's last version: one look-up by primary key. None when it was never started."""
        return await self._heads.of(conversation_id)

    async def last_position(self) -> int:
        """The position of the newest event of all; 0 while there is none."""
        rows = await self._rows(sql.SQL("SELECT max(notification_id) FROM events"), ())
        return rows[0][0] or 0

    async def conversation_of(self, tenant: str, response_id: str) -> str | None:
        """The conversation a response belongs to."""
        rows = await self._rows(
            sql.SQL("SELECT conversation_id FROM responses WHERE tenant_id = %s AND response_id = %s"),
            (tenant, response_id),
        )
        return conversation_id_of(rows[0][0]) if rows else None

    async def is_locked(self, conversation_id: str) -> bool:
        """Whether a reply runs in the conversation."""
        return bool(
            await self._rows(
                sql.SQL("SELECT FROM responses WHERE conversation_id = %s AND running LIMIT 1"),
                (uuid_of(conversation_id),),
            )
        )

    async def first_answer(self, tenant: str, key: IdempotencyKey, since: datetime) -> FirstAnswer | None:
        """What an idempotency key was answered, at `since` or later. Raises KeyReused when that was another request."""
        rows = await self._rows(
            sql.SQL(
                "SELECT fingerprint, answer, version, position FROM idempotency_keys"
                " WHERE tenant_id = %s AND key = %s AND recorded_at >= %s"
            ),
            (tenant, key.key, since),
        )
        if not rows:
            return None
        fingerprint, answer, version, position = rows[0]
        if fingerprint != key.fingerprint:
            raise KeyReused
        return FirstAnswer(answer=answer, version=version, position=position)

    async def conversation(
        self,
        conversation_id: str,
        *,
        limit: int,
        after: int = 0,
        until: int | None = None,
        max_bytes: int = PAGE_BYTES,
    ) -> list[Recorded]:
        """A page of one conversation's events with `after` < version <= `until`, ascending, as `batch` bounds it."""
        return readable(await self._page(_FORWARDS, (uuid_of(conversation_id), after, until, limit), max_bytes))

    async def conversation_logged(
        self, conversation_id: str, *, limit: int, after: int = 0, max_bytes: int = PAGE_BYTES
    ) -> list[Logged]:
        """As `conversation`, but for those who go on behind an event that can not be read: it is there as an UnreadableRecord."""
        return await self._page(_FORWARDS, (uuid_of(conversation_id), after, None, limit), max_bytes)

    async def conversation_backwards(
        self, conversation_id: str, *, until: int, limit: int, max_bytes: int = PAGE_BYTES
    ) -> list[Recorded]:
        """A page of one conversation's events with version <= `until`, newest first, as `batch` bounds it."""
        return readable(await self._page(_BACKWARDS, (uuid_of(conversation_id), until, limit), max_bytes))

    async def item(self, conversation_id: str, item_id: str) -> list[Recorded]:
        """Every event that names this item (or response), ascending."""
        return await self._recorded(
            sql.SQL("SELECT {} FROM events WHERE originator_id = %s AND item_id = %s ORDER BY originator_version"),
            (uuid_of(conversation_id), item_id),
        )

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event with version <= `until` that names any of these items, ascending."""
        rows = await self._rows(_ITEMS.format(_COLUMNS), (uuid_of(conversation_id), list(item_ids), until))
        return [recorded_of(row) for row in rows]

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        """The events with version <= `until` that say what a conversation began with, and the last each that say which
        instructions and policy it has, which items are pinned and which summary stands; ascending. They are few, however long it is."""
        rows = await self._rows(SETTINGS_EVENTS.format(_COLUMNS), {"stream": uuid_of(conversation_id), "until": until})
        return [recorded_of(row) for row in rows]

    async def after(self, position: int, *, limit: int, until: int | None = None) -> list[Recorded]:
        """At most `limit` events of all conversations with `position` < theirs <= `until`, in commit order.

        No event can turn up later at a position that was passed: positions are given under the append lock.
        """
        return await self._recorded(
            sql.SQL(
                "SELECT {} FROM events WHERE notification_id > %s"
                " AND notification_id <= coalesce(%s, notification_id) ORDER BY notification_id LIMIT %s"
            ),
            (position, until, limit),
        )

    async def batch(self, position: int, *, limit: int, max_bytes: int, until: int | None = None) -> list[Recorded]:
        """As `after`, and no more than about `max_bytes` of states once they are read, but one event at least.

        Events before one that can not be read are given first; UnreadableEvent is raised when that one is the first.
        """
        return readable(await self._page(_BATCH, (position, until, limit), max_bytes))

    async def batch_logged(
        self, position: int, *, limit: int, max_bytes: int, until: int | None = None
    ) -> list[Logged]:
        """As `batch`, but for those who go on behind an event that can not be read: it is there as an UnreadableRecord."""
        return await self._page(_BATCH, (position, until, limit), max_bytes)

    async def _page(self, statement: sql.SQL, parameters: tuple[object, ...], max_bytes: int) -> list[Logged]:
        rows = await self._rows(statement.format(_COLUMNS), (*parameters, max_bytes))
        logged: list[Logged] = []
        size = 0
        for row in rows:
            size += decoded_size(row[8])
            if logged and size > max_bytes:
                break
            logged.append(as_logged(row))
        return logged

    async def _recorded(self, statement: sql.SQL, parameters: tuple[object, ...]) -> list[Recorded]:
        rows = await self._rows(statement.format(_COLUMNS), parameters)
        return [recorded_of(row) for row in rows]

    async def _rows(
        self, statement: sql.SQL | sql.Composed, parameters: tuple[object, ...] | dict[str, object]
    ) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, parameters, binary=True)
            return await cursor.fetchall()
