"""Keeps a record in Postgres of the process in which each reply runs or waits.

So any process can cancel a reply, and can see when the process of a reply has died. A process raises its `beat` every RENEW_SECONDS.
The others count the process as dead when they have seen the same beat for ALIVE_SECONDS (`heartbeats.py`). Beats are in the table
`api_processes`. The replies are in the table `responses`. Appends add its rows, and mark in them which replies have ended.
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
"""How long a beat may stay unchanged. A renewal takes less time, even on a busy machine. A person is willing to wait this long for the end of a reply whose process died."""

RENEW_SECONDS = 0.5
"""How often a beat is raised, and cancellations are read."""

Owner = UUID | None
"""The process that runs a reply. None: the code that requested the reply recorded no owner, so no process runs the reply."""

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

    `own`: the ids of the replies that run or wait in this process according to Postgres, each with whether another
    process asked to cancel it. `dead`: the dead processes, also those that own no replies.
    """

    own: Mapping[str, bool]
    dead: Collection[Owner]


class Orphan(Struct, frozen=True):
    """A reply that has not ended, and that no living process runs."""

    tenant: str
    response_id: str
    conversation_id: str
    owner: Owner


class ReplyLeases:
    """Reads and writes the leases of processes and the owners of replies, for the process `owner`. `pool`: for writers. Its methods raise psycopg.Error."""

    def __init__(self, pool: Pool, owner: UUID, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._owner = owner
        self._beat = 0
        self._watch = HeartbeatWatch[Owner](ALIVE_SECONDS, RENEW_SECONDS, clock)

    async def renew(self) -> RenewedLease:
        """Renews the lease."""
        try:
            own, beats = await self._renew()
        except Exception:
            self._watch.start_over()
            raise
        return RenewedLease(own, self._watch.unchanged(beats))

    async def _renew(self) -> tuple[dict[str, bool], dict[Owner, int | None]]:
        """Raises the beat. Returns this process's replies, and the beat of each process that has a lease or runs a reply."""
        self._beat += 1
        async with self._pool.connection() as connection, connection.transaction():
            # The commit does not wait for the disk. If Postgres crashes, a beat is lost, and the next one follows.
            await connection.execute("SET LOCAL synchronous_commit = off")
            await connection.execute(_RENEW, (self._owner, self._beat))
            own: list[Any] = await (await connection.execute(_OWN, (self._owner,))).fetchall()
            beats: list[Any] = await (await connection.execute(_BEATS)).fetchall()
        return dict(own), dict(beats)

    async def release(self) -> None:
        """Ends the lease."""
        await self.delete([self._owner])

    async def orphans(
        self, dead: Collection[Owner], lost: Collection[str], *, after: Orphan | None, limit: int
    ) -> list[Orphan]:
        """At most `limit` replies that have not ended and that no living process runs.

        These are the replies of `dead` processes, those without an owner, and those in `lost`. `after`: the last reply
        of the page before.
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
        """Makes this process the owner of the reply. Returns False if the reply has ended, or another process has claimed it."""
        async with self._pool.connection() as connection:
            claimed = await connection.execute(
                "UPDATE responses SET owner = %s"
                " WHERE tenant_id = %s AND response_id = %s AND running AND owner IS NOT DISTINCT FROM %s",
                (self._owner, orphan.tenant, orphan.response_id, orphan.owner),
            )
            return claimed.rowcount == 1

    async def request_cancel(self, tenant: str, response_id: str) -> None:
        """Asks the reply's process to cancel it."""
        # A single statement, without BEGIN. A process that froze inside a transaction would hold the row's lock. Then the reply's end, and all
        # appends after it, would wait.
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE responses SET cancelling = true WHERE tenant_id = %s AND response_id = %s AND running",
                (tenant, response_id),
            )

    async def forget(self, orphan: Orphan) -> None:
        """Marks the reply as not running.

        This is for a reply whose end the log refuses, for example because somebody removed its events.
        """
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE responses SET running = false WHERE tenant_id = %s AND response_id = %s",
                (orphan.tenant, orphan.response_id),
            )

    async def delete(self, owners: Collection[Owner]) -> None:
        """Deletes the leases of these processes."""
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM api_processes WHERE id = ANY (%s)", (list(owners),))
