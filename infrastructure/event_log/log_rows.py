"""Reads and decodes rows of `events`. A page is limited by rows and by bytes."""

from typing import Any

from psycopg import sql

from infrastructure.event_log.codec import decoded_size
from infrastructure.event_log.recorded import (
    COLUMNS,
    COLUMNS_OF_SUBQUERY,
    COLUMNS_WITH_OWNER,
    Logged,
    Recorded,
    as_logged,
    recorded_of,
)
from infrastructure.stores.postgres import Pool

PAGE = (
    "SELECT {{page_columns}} FROM (SELECT {{columns}}, sum(octet_length(state)) OVER (ORDER BY {order}) - octet_length(state)"
    " AS before FROM events WHERE {where} ORDER BY {order} LIMIT %s) AS page WHERE before < %s ORDER BY {order}"
)
"""Format it with `order` and `where`, then with both lists of columns."""

COLUMNS_SQL = sql.SQL(COLUMNS)
COLUMNS_WITH_OWNER_SQL = sql.SQL(COLUMNS_WITH_OWNER)
PAGE_COLUMNS_SQL = sql.SQL(COLUMNS_OF_SUBQUERY)

Parameters = tuple[object, ...] | dict[str, object]


class LogRows:
    """A base class for readers of the log. Its methods raise psycopg.Error. `_recorded` also raises UnreadableEvent."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _page(
        self,
        statement: sql.SQL,
        parameters: tuple[object, ...],
        max_bytes: int,
        columns: sql.SQL = COLUMNS_SQL,
    ) -> list[Logged]:
        page = statement.format(columns=columns, page_columns=PAGE_COLUMNS_SQL)
        rows = await self._rows(page, (*parameters, max_bytes))
        logged: list[Logged] = []
        size = 0
        for row in rows:
            size += decoded_size(row[8])
            if logged and size > max_bytes:
                break
            logged.append(as_logged(row))
        return logged

    async def _recorded(
        self, statement: sql.SQL, parameters: Parameters, columns: sql.SQL = COLUMNS_SQL
    ) -> list[Recorded]:
        return [recorded_of(row) for row in await self._rows(statement.format(columns), parameters)]

    async def _rows(self, statement: sql.SQL | sql.Composed, parameters: Parameters) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, parameters, binary=True)
            return await cursor.fetchall()
