"""Which replies run in which process, in Postgres: how one is cancelled from anywhere, and one whose process died is found.

A process is alive as long as it says so. Tables: `api_processes`, and `responses`, whose rows the appends write.
"""

from collections.abc import Mapping
from uuid import UUID

from msgspec import Struct

from infrastructure.ids import conversation_id
from infrastructure.stores.postgres import Pool

ALIVE_SECONDS = 5.0
"""How long a process counts as alive after it has said so: longer than a busy machine makes one wait, shorter than people do."""

RENEW_SECONDS = 0.5
"""How often it says so, and is told what to cancel."""

GRACE_SECONDS = 45.0
"""After so long a reply that its process does not know is nobody's: its request's answer was lost on the way."""

_ALIVE = """
    INSERT INTO api_processes VALUES (%s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until
"""

_MINE = """
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
    """A reply that Postgres says runs in this process. `old`: it was asked for longer than GRACE_SECONDS ago."""

    cancelling: bool
    old: bool


class Orphan(Struct, frozen=True):
    """A reply that runs nowhere any more."""

    tenant: str
    response_id: str
    conversation_id: str


class ReplyLeases:
    """The leases of the process `owner`. Raises psycopg.Error."""

    def __init__(self, pool: Pool, owner: UUID) -> None:
        self._pool = pool
        self._owner = owner

    async def renew(self) -> Mapping[str, OwnLease]:
        """Says that this process is alive; gives the replies that are its own, by id."""
        async with self._pool.connection() as connection, connection.transaction():
            # A lease that is lost with a crash is a process that counts as dead a moment early: it is not worth a wait for the disk.
            await connection.execute("SET LOCAL synchronous_commit = off; SET TRANSACTION READ WRITE")
            await connection.execute(_ALIVE, (self._owner, ALIVE_SECONDS))
            rows = await connection.execute(_MINE, (GRACE_SECONDS, self._owner))
            return {str(response_id): OwnLease(bool(c), bool(old)) for response_id, c, old in await rows.fetchall()}

    async def give_up(self) -> None:
        """Says that this process is no longer alive."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute("DELETE FROM api_processes WHERE id = %s", (self._owner,))

    async def orphans(self, lost: list[str]) -> list[Orphan]:
        """Replies whose process is not alive, and those of `lost` that still run.

        But the newest: a process that has just begun, or has its Postgres back, may take requests before it has said that it is alive.
        """
        async with self._pool.connection() as connection:
            rows = await connection.execute(_ORPHANS, (lost, ALIVE_SECONDS))
            return [
                Orphan(str(tenant), str(response_id), conversation_id(UUID(str(stream))))
                for tenant, response_id, stream in await rows.fetchall()
            ]

    async def cancel(self, tenant: str, response_id: str) -> None:
        """Asks the process that runs the reply to cancel it."""
        # All at once: a process that stops in between would hold the row, and whoever appends the reply's end would wait for it, with
        # the turn of all who append.
        async with self._pool.connection() as connection, connection.pipeline(), connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute(
                "UPDATE responses SET cancelling = true WHERE tenant_id = %s AND response_id = %s AND running",
                (tenant, response_id),
            )

    async def forget_the_dead(self) -> None:
        """Drops what is known of processes that ended long ago."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            await connection.execute(
                "DELETE FROM api_processes WHERE alive_until < clock_timestamp() - interval '1 day'"
            )
