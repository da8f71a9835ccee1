"""Which replies run in which process, in Postgres. With this, any process can cancel a reply, and find the replies whose process died.

A process holds a lease and renews it. Tables: `api_processes`, and `responses`, whose rows the appends write.
"""

from collections.abc import Mapping
from uuid import UUID

from msgspec import Struct

from infrastructure.ids import conversation_id
from infrastructure.stores.postgres import Pool

ALIVE_SECONDS = 5.0
"""How long a lease is valid: longer than a busy machine delays a renewal, shorter than a person waits."""

RENEW_SECONDS = 0.5
"""How often a lease is renewed, and cancellations are read."""

GRACE_SECONDS = 45.0
"""A reply older than this that its own process does not know is lost: the process never learned that the request was committed."""

_RENEW = """
    INSERT INTO api_processes VALUES (%s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until
"""

_OWN = """
    SELECT response_id, cancelling, requested_at < clock_timestamp() - make_interval(secs => %s)
    FROM responses WHERE owner = %s AND running
"""

_ORPHANS = """
    SELECT tenant_id, response_id, conversation_id FROM responses AS r
    WHERE running AND (response_id = ANY (%s) OR NOT EXISTS (
        SELECT FROM api_processes AS p WHERE p.id = r.owner AND p.alive_until > clock_timestamp()))
    AND requested_at < clock_timestamp() - make_interval(secs => %s)
    LIMIT 100
"""


class OwnLease(Struct, frozen=True):
    """A reply that Postgres says runs in this process. `past_grace`: it was requested more than GRACE_SECONDS ago."""

    cancelling: bool
    past_grace: bool


class Orphan(Struct, frozen=True):
    """A reply that no living process runs."""

    tenant: str
    response_id: str
    conversation_id: str


class ReplyLeases:
    """The lease of the process `owner`. Raises psycopg.Error."""

    def __init__(self, pool: Pool, owner: UUID) -> None:
        self._pool = pool
        self._owner = owner

    async def renew(self) -> Mapping[str, OwnLease]:
        """Renews the lease; returns the replies of this process, by id."""
        async with self._pool.connection() as connection, connection.transaction():
            # Not worth a wait for the disk: if a crash of Postgres loses a renewal, a process only counts as dead too early.
            await connection.execute("SET LOCAL synchronous_commit = off; SET TRANSACTION READ WRITE")
            await connection.execute(_RENEW, (self._owner, ALIVE_SECONDS))
            rows = await connection.execute(_OWN, (GRACE_SECONDS, self._owner))
            return {
                str(response_id): OwnLease(cancelling=bool(cancelling), past_grace=bool(past_grace))
                for response_id, cancelling, past_grace in await rows.fetchall()
            }

    async def release(self) -> None:
        """Ends the lease."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute("DELETE FROM api_processes WHERE id = %s", (self._owner,))

    async def orphans(self, lost: list[str]) -> list[Orphan]:
        """At most 100 running replies: those whose process is dead, and those in `lost`.

        Replies younger than ALIVE_SECONDS are left out: a process that has just started may take requests before its first renewal.
        """
        async with self._pool.connection() as connection:
            rows = await connection.execute(_ORPHANS, (lost, ALIVE_SECONDS))
            return [
                Orphan(str(tenant), str(response_id), conversation_id(UUID(str(conversation_uuid))))
                for tenant, response_id, conversation_uuid in await rows.fetchall()
            ]

    async def request_cancel(self, tenant: str, response_id: str) -> None:
        """Asks the process that runs the reply to cancel it."""
        # In one round trip: a process that stopped in between would hold the row's lock. The reply's end, and all appends after it, would wait.
        async with self._pool.connection() as connection, connection.pipeline(), connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute(
                "UPDATE responses SET cancelling = true WHERE tenant_id = %s AND response_id = %s AND running",
                (tenant, response_id),
            )

    async def delete_dead_processes(self) -> None:
        """Deletes leases that ended more than a day ago."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute(
                "DELETE FROM api_processes WHERE alive_until < clock_timestamp() - interval '1 day'"
            )
