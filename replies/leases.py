"""For each reply, Postgres records the process in which the reply runs or waits.

So any process can cancel a reply, and can see that the reply's process has died. Each process raises its `beat` every
RENEW_SECONDS. Appends add the rows of `responses`, and mark the replies that have ended.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any
from uuid import UUID

from msgspec import Struct

from infrastructure.ids import conversation_id
from infrastructure.stores.heartbeats import HeartbeatWatch
from infrastructure.stores.postgres import Pool

ALIVE_SECONDS = 5.0
"""A process counts as dead when its beat has not changed for this time.

A renewal takes less than ALIVE_SECONDS, even on a busy machine.
"""

RENEW_SECONDS = 0.5

Owner = UUID | None
"""None: no owner was recorded, so no process runs the reply."""

_RENEW = "INSERT INTO api_processes (id, beat) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat"

_OWN = "SELECT response_id, cancelling FROM responses WHERE owner = %s AND running"

_BEATS = """
    SELECT id, beat FROM api_processes
    UNION ALL
    SELECT DISTINCT owner, NULL::bigint FROM responses AS r
    WHERE running AND NOT EXISTS (SELECT FROM api_processes AS p WHERE p.id = r.owner)
"""

_ORPHANS = """
    SELECT tenant_id, response_id, conversation_id, owner FROM responses
    WHERE running AND (owner = ANY (%(dead)s) OR owner IS NULL OR response_id = ANY (%(lost)s))
      AND (response_id, tenant_id) > (%(response_id)s, %(tenant)s)
    ORDER BY response_id, tenant_id LIMIT %(limit)s
"""


class RenewedLease(Struct, frozen=True):
    """What a process learns when it renews its lease.

    `own`: this process's replies; True if a cancellation was requested. `dead`: the dead processes, also those without
    replies.
    """

    own: Mapping[str, bool]
    dead: Collection[Owner]


class Orphan(Struct, frozen=True):
    tenant: str
    response_id: str
    conversation_id: str
    owner: Owner


class ReplyLeases:
    """This process's lease, and the owners of all replies. `pool` must be able to write.

    Methods raise psycopg.Error.
    """

    def __init__(self, pool: Pool, owner: UUID, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._owner = owner
        self._beat = 0
        self._watch = HeartbeatWatch[Owner](ALIVE_SECONDS, RENEW_SECONDS, clock)

    async def renew(self) -> RenewedLease:
        try:
            own, beats = await self._renew()
        except Exception:
            self._watch.start_over()
            raise
        return RenewedLease(own, self._watch.unchanged(beats))

    async def _renew(self) -> tuple[dict[str, bool], dict[Owner, int | None]]:
        """This process's replies, and the beat of each process that has a lease or runs a reply."""
        self._beat += 1
        async with self._pool.connection() as connection, connection.transaction():
            # The commit does not wait for the disk, because after a crash the next beat replaces a lost one.
            await connection.execute("SET LOCAL synchronous_commit = off")
            await connection.execute(_RENEW, (self._owner, self._beat))
            own: list[Any] = await (await connection.execute(_OWN, (self._owner,))).fetchall()
            beats: list[Any] = await (await connection.execute(_BEATS)).fetchall()
        return dict(own), dict(beats)

    async def release(self) -> None:
        await self.delete([self._owner])

    async def orphans(
        self, dead: Collection[Owner], lost: Collection[str], *, after: Orphan | None, limit: int
    ) -> list[Orphan]:
        """A page of replies that have not ended. Each is in `lost`, has no owner, or belongs to a `dead` process.

        `after`: the last orphan of the page before.
        """
        position = ("", "") if after is None else (after.response_id, after.tenant)
        parameters = {
            "dead": list(dead),
            "lost": list(lost),
            "response_id": position[0],
            "tenant": position[1],
            "limit": limit,
        }
        async with self._pool.connection() as connection:
            rows: list[Any] = await (await connection.execute(_ORPHANS, parameters)).fetchall()
            return [
                Orphan(tenant, response_id, conversation_id(stream_id), owner)
                for tenant, response_id, stream_id, owner in rows
            ]

    async def claim(self, orphan: Orphan) -> bool:
        """Makes this process the owner. Returns False if the reply has ended, or another process has claimed it."""
        async with self._pool.connection() as connection:
            claimed = await connection.execute(
                "UPDATE responses SET owner = %s"
                " WHERE tenant_id = %s AND response_id = %s AND running AND owner IS NOT DISTINCT FROM %s",
                (self._owner, orphan.tenant, orphan.response_id, orphan.owner),
            )
            return claimed.rowcount == 1

    async def request_cancel(self, tenant: str, response_id: str) -> None:
        # No BEGIN: a process that froze inside a transaction would keep the row locked. Then all later appends would
        # wait.
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE responses SET cancelling = true WHERE tenant_id = %s AND response_id = %s AND running",
                (tenant, response_id),
            )

    async def forget(self, orphan: Orphan) -> None:
        """Marks a reply as not running. Call this if the log refuses the reply's end, for example because events were removed."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE responses SET running = false WHERE tenant_id = %s AND response_id = %s",
                (orphan.tenant, orphan.response_id),
            )

    async def delete(self, owners: Collection[Owner]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM api_processes WHERE id = ANY (%s)", (list(owners),))
