"""Divides the partitions among the projectors that run, by leases in Postgres.

Every projector renews its registration twice a second and counts as alive for 2.5 s after that. It owns an equal share of the partitions:
it takes partitions that are free or whose holder is dead, and releases what exceeds its share when another projector starts. A lease is a
number that only grows. MongoDB stores the newest lease of each partition (`view_positions.py`), so a projector that froze, was
replaced and wakes up cannot write.
"""

from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection

from infrastructure.stores.postgres import Pool
from projections.views.partitions import ALL_PARTITIONS, PARTITIONS

ALIVE_SECONDS = 2.5
"""How long a projector counts as alive after it renewed."""

RENEW_SECONDS = 0.5

_LOCK = 7_203_914_412
"""The advisory lock that lets one projector at a time take or release partitions."""

_BEGIN = "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '1s'"
"""A projector that freezes inside the transaction must not block the others."""

# A new lease is at least the clock's milliseconds, so leases still grow after Postgres was restored from an older backup.
_TAKE = """
    INSERT INTO projection_leases (bucket, holder, lease)
    SELECT unnest(%s::smallint[]), %s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    ON CONFLICT (bucket) DO UPDATE SET holder = excluded.holder, lease = greatest(projection_leases.lease + 1, excluded.lease)
"""

_RAISE = "UPDATE projection_leases SET lease = greatest(lease, %s) + 1 WHERE bucket = %s"


class HeldPartitions(Struct, frozen=True):
    """The partitions that a projector holds, each with its lease, and the dead projectors it took some of them from."""

    leases: Mapping[int, int]
    dead_holders: frozenset[UUID] = frozenset()


class Leases:
    """The leases of the projector `holder`. Raises psycopg.Error."""

    def __init__(self, pool: Pool, holder: UUID) -> None:
        self._pool = pool
        self._holder = holder

    async def renew(self, superseded: Mapping[int, int] | None = None) -> HeldPartitions:
        """Registers this projector as alive, and takes or releases partitions until it holds its share.

        `superseded`: newer leases that MongoDB has for partitions held here, by partition. If Postgres still says that this projector
        holds them (Postgres was restored from an older backup), it takes a lease above those.
        """
        superseded = superseded or {}
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGIN)
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await connection.execute("DELETE FROM projectors WHERE alive_until < clock_timestamp()")
            await connection.execute(
                "INSERT INTO projectors VALUES (%s, clock_timestamp() + make_interval(secs => %s))"
                " ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until",
                (self._holder, ALIVE_SECONDS),
            )
            alive = [projector for (projector,) in await _rows(connection, "SELECT id FROM projectors ORDER BY id")]
            holders: dict[int, UUID | None] = dict.fromkeys(ALL_PARTITIONS)
            holders.update(await _rows(connection, "SELECT bucket, holder FROM projection_leases"))
            own = [partition for partition in ALL_PARTITIONS if holders[partition] == self._holder]
            share = _share_size(alive.index(self._holder), len(alive))
            free = [partition for partition in ALL_PARTITIONS if holders[partition] not in alive]
            to_take = free[: max(0, share - len(own))]
            for partition in own:
                if partition in superseded:
                    await connection.execute(_RAISE, (superseded[partition], partition))
            if to_take:
                await connection.execute(_TAKE, (to_take, self._holder))
            elif len(own) > share:
                await connection.execute(
                    "UPDATE projection_leases SET holder = NULL WHERE bucket = ANY(%s)", (own[share:],)
                )
            leases = await _rows(
                connection, "SELECT bucket, lease FROM projection_leases WHERE holder = %s", self._holder
            )
            dead_holders = frozenset(holder for partition in to_take if (holder := holders[partition]) is not None)
            return HeldPartitions(dict(leases), dead_holders)

    async def release(self) -> None:
        """Releases all partitions and unregisters this projector."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGIN)
            await connection.execute("UPDATE projection_leases SET holder = NULL WHERE holder = %s", (self._holder,))
            await connection.execute("DELETE FROM projectors WHERE id = %s", (self._holder,))


async def _rows(connection: AsyncConnection[Any], query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, parameters)).fetchall()


def _share_size(rank: int, count: int) -> int:
    """How many partitions the projector of this rank holds, of `count` that are alive."""
    return PARTITIONS // count + (rank < PARTITIONS % count)
