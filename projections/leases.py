"""Divides the partitions among the running projectors, with leases in Postgres.

A projector takes free partitions up to its share, and releases what exceeds the share. Partitions of a dead projector
are free. A new lease of a partition has a higher number than the lease before. MongoDB stores the newest lease. So a
projector that froze and was replaced cannot write when it wakes up.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, LiteralString
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection

from infrastructure.stores.heartbeats import HeartbeatWatch
from infrastructure.stores.postgres import Pool
from projections.views.partitions import ALL_PARTITIONS, PARTITIONS

ALIVE_SECONDS = 2.5
"""A projector is dead when its beat was seen unchanged for this long."""

RENEW_SECONDS = 0.5

_LOCK = 7_203_914_412
"""Held while a projector renews its leases."""

_BEGIN = "SET TRANSACTION READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '1s'"
"""Postgres ends the transaction of a projector that froze, because the transaction blocks other projectors."""

_RENEW = "INSERT INTO projectors (id, beat) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat"

# A new lease is at least the current time in milliseconds. So leases usually still grow after Postgres was restored
# from an older backup.
_TAKE = """
    INSERT INTO projection_leases (bucket, holder, lease)
    SELECT unnest(%s::smallint[]), %s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    ON CONFLICT (bucket) DO UPDATE SET holder = excluded.holder, lease = greatest(projection_leases.lease + 1, excluded.lease)
"""

_RAISE = "UPDATE projection_leases SET lease = greatest(lease, %s) + 1 WHERE bucket = %s"


class HeldPartitions(Struct, frozen=True):
    """The partitions that a projector holds, with their leases.

    `dead_holders`: the dead projectors whose partitions were taken. `share`: how many partitions to hold.
    """

    leases: Mapping[int, int]
    dead_holders: frozenset[UUID] = frozenset()
    share: int = 0


class Leases:
    """The leases of one projector, `holder`. The methods raise psycopg.Error."""

    def __init__(self, pool: Pool, holder: UUID, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._holder = holder
        self._beat = 0
        self._watch = HeartbeatWatch[UUID](ALIVE_SECONDS, RENEW_SECONDS, clock)

    async def renew(self, newer_leases: Mapping[int, int] | None = None) -> HeldPartitions:
        """Raises this projector's beat. Takes free partitions up to its share, or releases what exceeds the share.

        `newer_leases`: by partition, leases in MongoDB that are newer than this projector's. Postgres may have been
          restored from an older backup. Then the projector takes a higher lease.
        """
        try:
            return await self._renew(newer_leases or {})
        except Exception:
            self._watch.start_over()
            raise

    async def _renew(self, newer_leases: Mapping[int, int]) -> HeldPartitions:
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGIN)
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            alive = await self._alive(connection)
            holders: dict[int, UUID | None] = dict.fromkeys(ALL_PARTITIONS)
            holders.update(await _rows(connection, "SELECT bucket, holder FROM projection_leases"))
            own = [partition for partition in ALL_PARTITIONS if holders[partition] == self._holder]
            share = _share_size(alive.index(self._holder), len(alive))
            free = [partition for partition in ALL_PARTITIONS if holders[partition] not in alive]
            to_take = free[: max(0, share - len(own))]
            for partition in own:
                if partition in newer_leases:
                    await connection.execute(_RAISE, (newer_leases[partition], partition))
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
            return HeldPartitions(dict(leases), dead_holders, share)

    async def _alive(self, connection: AsyncConnection[Any]) -> list[UUID]:
        """Raises the beat. Returns the ids of living projectors, sorted."""
        self._beat += 1
        await connection.execute(_RENEW, (self._holder, self._beat))
        beats: dict[UUID, int] = dict(await _rows(connection, "SELECT id, beat FROM projectors"))
        dead = self._watch.unchanged(beats)
        if dead:
            await connection.execute("DELETE FROM projectors WHERE id = ANY(%s)", (list(dead),))
        return sorted(beats.keys() - dead)

    async def release(self) -> None:
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BEGIN)
            await connection.execute("UPDATE projection_leases SET holder = NULL WHERE holder = %s", (self._holder,))
            await connection.execute("DELETE FROM projectors WHERE id = %s", (self._holder,))


async def _rows(connection: AsyncConnection[Any], query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, parameters)).fetchall()


def _share_size(rank: int, count: int) -> int:
    """`rank`: the projector's index among the `count` living ones."""
    return PARTITIONS // count + (rank < PARTITIONS % count)
