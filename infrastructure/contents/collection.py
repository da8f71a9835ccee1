"""Deletes expired files, and the contents that nothing names any more, in a task of its own.

A content is kept for KEEP_HOURS after it was last stored, because an append that names it may still come.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql
from psycopg_pool import PoolTimeout

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.stores.postgres import Pool

KEEP_HOURS: Final = 24
INTERVAL_SECONDS: Final = 3_600
_MAX_ROWS: Final = 1_000
"""A statement looks at no more rows than this, so that it ends in time."""

_EXPIRED: Final = """
    DELETE FROM files WHERE ctid = ANY(ARRAY(SELECT ctid FROM files WHERE expires_at < now() LIMIT %(rows)s FOR UPDATE SKIP LOCKED))
"""
_OLD: Final = sql.SQL("written_at < now() - make_interval(hours => %(hours)s)")
_UNNAMED: Final = sql.SQL("""
    NOT EXISTS (SELECT FROM files AS f WHERE f.tenant_id = c.tenant_id AND f.sha256 = c.sha256)
    AND NOT EXISTS (SELECT FROM content_refs AS r WHERE r.tenant_id = c.tenant_id AND r.sha256 = c.sha256)
""")
_PAGE: Final = sql.SQL("""
    SELECT written_at, tenant_id, sha256, {} FROM contents AS c
    WHERE {} AND (written_at, tenant_id, sha256) > (%(written_at)s, %(tenant)s, %(sha256)s)
    ORDER BY written_at, tenant_id, sha256 LIMIT %(rows)s
""").format(_UNNAMED, _OLD)
_LOCK: Final = sql.SQL("""
    SELECT FROM contents AS c WHERE tenant_id = %(tenant)s AND sha256 = %(sha256)s AND {} FOR UPDATE SKIP LOCKED
""").format(_OLD)
_DELETE: Final = sql.SQL(
    "DELETE FROM contents AS c WHERE tenant_id = %(tenant)s AND sha256 = %(sha256)s AND {}"
).format(_UNNAMED)

log = structlog.get_logger(__name__)


class ContentCollector:
    def __init__(self, pool: Pool, keep_hours: int = KEEP_HOURS) -> None:
        self._pool = pool
        self._keep_hours = keep_hours

    async def collect(self) -> int:
        """Returns how many contents were deleted. Raises psycopg.Error."""
        async with self._pool.connection() as connection:
            while (await connection.execute(_EXPIRED, {"rows": _MAX_ROWS})).rowcount == _MAX_ROWS:
                pass
            collected = 0
            limits = {"rows": _MAX_ROWS, "hours": self._keep_hours}
            after = {"written_at": datetime.min.replace(tzinfo=UTC), "tenant": "", "sha256": b""}
            while True:
                found = await (await connection.execute(_PAGE, {**limits, **after})).fetchall()
                for written_at, tenant, sha256, is_unnamed in found:
                    after = {"written_at": written_at, "tenant": tenant, "sha256": sha256}
                    if is_unnamed:
                        collected += await self._delete(connection, tenant, sha256)
                if len(found) < _MAX_ROWS:
                    return collected

    async def _delete(self, connection: psycopg.AsyncConnection[Any], tenant: Any, sha256: Any) -> bool:
        """False if somebody stores or names the content at this moment.

        A row that names the content needs a lock of the content's row, because of the foreign key. So after this lock,
        the second statement sees all rows that name the content, and no more can be added.
        """
        values = {"tenant": tenant, "sha256": sha256, "hours": self._keep_hours}
        async with connection.transaction():
            if (await connection.execute(_LOCK, values)).rowcount == 0:
                return False
            return (await connection.execute(_DELETE, values)).rowcount == 1

    async def keep_collecting(self) -> None:
        while True:
            try:
                if collected := await self.collect():
                    log.info("contents_collected", count=collected)
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("contents_not_collected", error_type=type(error).__name__)
            raise_if_cancelled()
            await asyncio.sleep(INTERVAL_SECONDS)
