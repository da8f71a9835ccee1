"""Which projector has which buckets in hand: leases in Postgres, that any number of projectors share by looking at it now and then.

A projector is alive as long as it says so; its buckets are then its own. Each takes an equal part of the buckets that are
free, or whose holder has fallen silent, and gives back what is more than that when another one comes. A lease is a number that only
rises: MongoDB knows the newest of each bucket (`positions.py`), so that a holder that was given up for dead, and wakes, writes nothing.
"""

from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection

from infrastructure.stores.postgres import Pool
from projections.views.partitions import ALL_PARTITIONS, PARTITIONS

ALIVE_SECONDS = 2.5
"""How long a projector counts as alive after it has said so."""

RENEW_SECONDS = 0.5

_LOCK = 7_203_914_412
"""The advisory lock under which one projector at a time looks for buckets."""

_BEGUN = "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '1s'"
"""A projector that is frozen inside must not keep the others out."""

# The clock gives the least a new lease may be: so it rises even where Postgres came back from an older backup.
_TAKE = """
    INSERT INTO projection_leases (bucket, holder, lease)
    SELECT unnest(%s::smallint[]), %s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    ON CONFLICT (bucket) DO UPDATE SET holder = excluded.holder, lease = greatest(projection_leases.lease + 1, excluded.lease)
"""

_OUTBID = "UPDATE projection_leases SET lease = greatest(lease, %s) + 1 WHERE bucket = %s"


class Held(Struct, frozen=True):
    """The buckets a projector holds, each with its lease; and whom it took some from who had fallen silent."""

    leases: Mapping[int, int]
    silent: frozenset[UUID] = frozenset()


class Leases:
    """The leases of the projector `holder`. Raises psycopg.Error."""

    def __init__(self, pool: Pool, holder: UUID) -> None:
        self._pool = pool
        self._holder = holder

    async def renew(self, outdone: Mapping[int, int] | None = None) -> Held:
        """Says that this projector is alive, and takes or gives back what makes its part an equal one.

        `outdone`: leases newer than its own that MongoDB knows of its buckets. Where Postgres says that they are its own all
        the same (it came back from an older backup), it takes them anew.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGUN)
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await connection.execute("DELETE FROM projectors WHERE alive_until < clock_timestamp()")
            await connection.execute(
                "INSERT INTO projectors VALUES (%s, clock_timestamp() + make_interval(secs => %s))"
                " ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until",
                (self._holder, ALIVE_SECONDS),
            )
            alive = [ident for (ident,) in await _rows(connection, "SELECT id FROM projectors ORDER BY id")]
            holders: dict[int, UUID | None] = dict.fromkeys(ALL_PARTITIONS)
            holders.update(await _rows(connection, "SELECT bucket, holder FROM projection_leases"))
            mine = [partition for partition in ALL_PARTITIONS if holders[partition] == self._holder]
            part = _part(alive.index(self._holder), len(alive))
            free = [partition for partition in ALL_PARTITIONS if holders[partition] not in alive][
                : max(0, part - len(mine))
            ]
            for partition in mine:
                if partition in (outdone or {}):
                    await connection.execute(_OUTBID, ((outdone or {})[partition], partition))
            if free:
                await connection.execute(_TAKE, (free, self._holder))
            elif len(mine) > part:
                await connection.execute(
                    "UPDATE projection_leases SET holder = NULL WHERE bucket = ANY(%s)", (mine[part:],)
                )
            leases = await _rows(
                connection, "SELECT bucket, lease FROM projection_leases WHERE holder = %s", self._holder
            )
            silent = frozenset(holder for partition in free if (holder := holders[partition]) is not None)
            return Held(dict(leases), silent)

    async def give_back(self) -> None:
        """Gives back everything: this projector ends."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGUN)
            await connection.execute("UPDATE projection_leases SET holder = NULL WHERE holder = %s", (self._holder,))
            await connection.execute("DELETE FROM projectors WHERE id = %s", (self._holder,))


async def _rows(connection: AsyncConnection[Any], query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, parameters)).fetchall()


def _part(rank: int, count: int) -> int:
    """How many buckets the projector of this rank has, of `count` that are alive."""
    return PARTITIONS // count + (rank < PARTITIONS % count)
