"""Looks up the end of a tenant's part of the log.

Reads of a tenant's views start with this look-up, so it has its own `PostgresPipeline`.
"""

from typing import Any

import psycopg

from infrastructure.event_log.incarnation import INCARNATION, LogPosition
from infrastructure.stores.postgres import Pool

_TEMPLATE = """
    SELECT json_build_array(least(coalesce(position, 0), coalesce(notification_id, 0)), {incarnation}) FROM (SELECT) AS log
    LEFT JOIN LATERAL (SELECT notification_id FROM events ORDER BY notification_id DESC LIMIT 1) AS newest ON true
    LEFT JOIN tenant_positions ON tenant_id = $1
"""
_STATEMENT = _TEMPLATE.format(incarnation=INCARNATION)
"""`least`: if rows were removed by hand, the position in `tenant_positions` may be after the end of the log."""


class TenantEndLookup:
    """Use it on one event loop. Closing the pool closes the connection."""

    def __init__(self, pool: Pool, timeout_seconds: float) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._pipeline = pool.pipeline("tenant_end", ["text"], _STATEMENT, _set_up)

    async def end_of(self, tenant: str) -> LogPosition:
        """The position of the tenant's newest event, 0 if it has none. The chain hash is empty. Raises psycopg.Error."""
        position, incarnation = await self._pool.read(self._pipeline, [tenant], self._timeout_seconds)
        return LogPosition(position, "", incarnation)


async def _set_up(connection: psycopg.AsyncConnection[Any]) -> None:
    """Makes the connection plan the statement once."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
