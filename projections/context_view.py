"""The view `context`: applies each batch of events to the context snapshots in Redis.

Its positions are in MongoDB. Redis is written first, so a batch may be applied twice. The second time has no
effect. A snapshot that cannot be changed is made again from the log.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from uuid import UUID

import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from context.item_counts import ItemCounts
from context.moved_snapshot import move_snapshot
from context.snapshot_from_log import refill, snapshot_items
from context.snapshot_store import put_snapshot, write_script
from context.snapshots import ITEMS_KEY_PREFIX, KEY_PREFIX, Snapshot, snapshot_keys
from context.tokens import count_off_loop
from infrastructure.event_log.feed import Batch
from infrastructure.event_log.incarnation import LogPosition
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged
from infrastructure.stores.mongodb import Database
from projections.mongo_views import MongoViews
from projections.parking import deleted_parked, events_to_apply
from projections.position_advance import PositionMoved
from projections.snapshot_change import SnapshotChange, snapshot_changes
from projections.view_positions import ViewPositions
from projections.views.catalog import CONTEXT
from projections.views.partitions import partition_of
from projections.views.view_position import ViewPosition

MAX_POSITION_DELAY_SECONDS = 0.1
"""How long a batch may wait until its position is written to MongoDB."""

_CANNOT_APPLY = -1
_KEYS_PER_CALL = 1_000
_REFILLS_AT_ONCE = 4

log = structlog.get_logger(__name__)


class ContextView:
    views: tuple[str, ...] = (CONTEXT,)
    min_batch_seconds = 0.02

    def __init__(self, redis: Redis, reader: EventReader, database: Database) -> None:
        self._redis = redis
        self._reader = reader
        self._counts = ItemCounts()
        self._positions = ViewPositions(database)
        self._mongo = MongoViews(database)
        self._unwritten: dict[str, tuple[ViewPosition, ViewPosition]] = {}
        """By position key: (the position in MongoDB, the position now)."""
        self._written_keys: set[str] = set()
        self._written_at = 0.0

    async def prepare(self) -> None:
        """Loads the vocabulary for counting tokens, so that the first event need not wait for it."""
        await self._positions.prepare()
        await count_off_loop([""])

    async def end_sessions(self, holders: Sequence[UUID]) -> None:
        """Does nothing, because Redis has no transactions that stay open."""

    async def start_over(
        self, view: str, target: int, *, only_incomplete: bool = False, only_from: ViewPosition | None = None
    ) -> None:
        """Removes all snapshots and starts again at the beginning of the log. Raises PositionMoved."""
        async with self._mongo.transaction((view,), 0) as session:
            if not await self._positions.start_over(
                view, view, target, session, only_incomplete=only_incomplete, only_from=only_from
            ):
                return
        await self._remove_all()

    async def apply(self, view_positions: Sequence[ViewPosition], batch: Batch) -> list[ViewPosition]:
        """Returns the new positions. After an error the batch must be applied again.

        Snapshots of parked conversations in the batch are removed, because these would be outdated. Raises
        UnreadableEvent, PositionMoved, RedisError, PyMongoError and psycopg.Error.
        """
        partitions = {view_position.partition for view_position in view_positions}
        parked = {conversation_id for view_position in view_positions for conversation_id in view_position.parked}
        new = batch.events[-1].log_position
        events = [logged for logged in batch.events if partition_of(logged.conversation_id) in partitions]
        applied = events_to_apply(events, parked)
        if outdated := _keys(logged for logged in events if logged.conversation_id in parked):
            await self._redis.unlink(*outdated)
        self._written_keys |= _keys(applied)
        await self.apply_changes(snapshot_changes(applied))
        if no_longer_parked := deleted_parked(applied, parked):
            await self.flush()
            return await self._advance(view_positions, new, no_longer_parked)
        advanced = [view_position.advanced(new) for view_position in view_positions]
        for before, after in zip(view_positions, advanced, strict=True):
            in_mongodb, _ = self._unwritten.get(before.key, (before, before))
            self._unwritten[before.key] = in_mongodb, after
        if time.monotonic() - self._written_at > MAX_POSITION_DELAY_SECONDS:
            await self.flush()
        return advanced

    async def flush(self) -> None:
        """Writes the new positions to MongoDB. Not needed after each batch, since events may be applied twice."""
        unwritten, self._unwritten = list(self._unwritten.values()), {}
        self._written_at = time.monotonic()
        by_move: defaultdict[tuple[int, LogPosition], list[ViewPosition]] = defaultdict(list)
        for in_mongodb, now in unwritten:
            by_move[in_mongodb.position, now.log_position].append(in_mongodb)
        for (_, new), view_positions in by_move.items():
            await self._advance(view_positions, new)
        self._written_keys.clear()

    async def _advance(
        self, view_positions: Sequence[ViewPosition], new: LogPosition, no_longer_parked: Collection[str] = ()
    ) -> list[ViewPosition]:
        try:
            return await self._positions.advance(view_positions, new, no_longer_parked)
        except (PositionMoved, PyMongoError):
            # Another projector may be ahead. If Redis lost the snapshots of that projector, the older ones written here
            # would stay. So the ones written here are removed.
            keys = sorted(self._written_keys)
            for start in range(0, len(keys), _KEYS_PER_CALL):
                await self._redis.unlink(*keys[start : start + _KEYS_PER_CALL])
            self._written_keys.clear()
            raise

    async def apply_changes(self, changes: Sequence[SnapshotChange]) -> None:
        for change in changes:
            if change.deleted:
                tombstone = Snapshot(version=change.version, deleted=True, incarnation=change.incarnation)
                await put_snapshot(self._redis, change.tenant, change.conversation_id, tombstone)
        moved = [change for change in changes if change.moved and not change.deleted and not change.needs_refill]
        applicable = [
            change for change in changes if not change.deleted and not change.needs_refill and not change.moved
        ]
        to_refill = [change for change in changes if change.needs_refill and not change.deleted]
        results = await self._run_script(applicable)
        to_refill += [change for change, result in zip(applicable, results, strict=True) if result == _CANNOT_APPLY]
        to_refill += [change for change in moved if not await self._move(change)]
        for start in range(0, len(to_refill), _REFILLS_AT_ONCE):
            await asyncio.gather(*map(self._refill, to_refill[start : start + _REFILLS_AT_ONCE]))

    async def _move(self, change: SnapshotChange) -> bool:
        conversation = change.tenant, change.conversation_id
        return await move_snapshot(
            self._reader,
            self._redis,
            *conversation,
            before=change.before,
            at=change.stream_version,
            counts=self._counts,
        )

    async def _refill(self, change: SnapshotChange) -> None:
        conversation = change.tenant, change.conversation_id
        await refill(self._reader, self._redis, *conversation, change.version, counts=self._counts)
        log.debug("snapshot_refilled", conversation_id=change.conversation_id, version=change.version)

    async def _remove_all(self) -> None:
        keys: list[bytes] = []
        for prefix in (KEY_PREFIX, ITEMS_KEY_PREFIX):
            async for key in self._redis.scan_iter(match=f"{prefix}*", count=_KEYS_PER_CALL):
                keys.append(key)
                if len(keys) == _KEYS_PER_CALL:
                    await self._redis.unlink(*keys)
                    keys.clear()
        if keys:
            await self._redis.unlink(*keys)

    async def _run_script(self, changes: Sequence[SnapshotChange]) -> list[int]:
        """Applies all changes in one round trip."""
        if not changes:
            return []
        items = iter(await snapshot_items([event for change in changes for event in change.appended], self._counts))
        script, sha1 = write_script()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.script_load(script)
        for change in changes:
            pipeline.evalsha(sha1, 2, *change.keys, *change.script_arguments(islice(items, len(change.appended))))
        _, *results = await pipeline.execute()
        return results


def _keys(events: Iterable[Logged]) -> set[str]:
    return {key for logged in events for key in snapshot_keys(logged.tenant, logged.conversation_id)}
