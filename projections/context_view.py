"""The view `context`: what a batch of events changes in the snapshots in Redis. Its position is in MongoDB like any view's.

Redis first, then the position: a batch may come twice, and changes nothing the second time. A snapshot that is not there,
or that the batch does not continue, is made anew from the log.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from hashlib import sha1
from importlib import resources
from itertools import islice
from uuid import UUID

import msgspec
import structlog
from msgspec import UNSET, Struct
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from context.conversation_settings import counted_summary
from context.snapshot_from_log import refill, snapshot_items
from context.snapshot_store import put_snapshot
from context.snapshots import (
    BLOCK_DEPTHS,
    KEY_PREFIX,
    MAX_BYTES,
    MAX_ITEMS,
    PIN_PREFIX,
    SNAPSHOT_FORMAT,
    SNAPSHOT_TTL_SECONDS,
    Snapshot,
    snapshot_key,
)
from context.tokens import count_off_loop
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDescribed,
    ConversationStarted,
    ItemAppended,
    ItemPinned,
    ItemRetracted,
    ItemUnpinned,
)
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Logged
from infrastructure.stores.mongodb import Database
from projections.mongo_views import MongoViews
from projections.parking import due, released
from projections.view_positions import PositionMoved, ViewPositions
from projections.views.catalog import CONTEXT
from projections.views.event_writes import is_deletion
from projections.views.partitions import partition_of
from projections.views.view_position import ViewPosition

UNWRITTEN_SECONDS = 0.1
"""How long a position may be ahead of what MongoDB knows of it: after a kill, so much is done again."""

_CHANGE = resources.files(__package__).joinpath("change_snapshot.lua").read_text()
_SHA1 = sha1(_CHANGE.encode(), usedforsecurity=False).hexdigest()
_NOT_CONTINUED = -1
_SCANNED_AT_ONCE = 1_000
_REFILLED_AT_ONCE = 4

log = structlog.get_logger(__name__)


class Change(Struct):
    """What a batch changes in one conversation's snapshot."""

    tenant: str
    conversation_id: str
    before: int
    version: int = 0
    branch: int | None = None
    fields: dict[str, str | int] = {}
    gone: dict[str, None] = {}
    retracted: dict[str, tuple[int, int]] = {}
    appended: dict[str, ItemAppended] = {}
    deleted: bool = False
    anew: bool = False
    compacted: tuple[int, ContextCompacted] | None = None

    def take(self, logged: Logged) -> None:
        """Adds the next event of the conversation. Raises UnreadableEvent."""
        self.version = logged.version
        if is_deletion(logged):
            self.deleted = True
            return
        event = logged.event
        match event:
            case ConversationStarted():
                self.fields |= {"branch": 0, "depth": 0, "policy": msgspec.json.encode(event.context_policy).decode()}
                self._set("instructions", event.instructions)
                if (fork := event.forked_from) is not None:
                    self.fields |= {"depth": fork.depth, "first": fork.depth + 1, "head": fork.item_id}
            case ConversationDescribed():
                if event.instructions is not UNSET:
                    self._set("instructions", event.instructions)
                if event.context_policy is not UNSET:
                    self.fields["policy"] = msgspec.json.encode(event.context_policy).decode()
            case ItemAppended():
                self.anew = self.anew or self.branch not in (None, event.branch)
                self.branch = event.branch
                self.appended[event.item_id] = event
                self.fields |= {"branch": event.branch, "depth": event.depth, "head": event.item_id}
            case ItemRetracted():
                if self.appended.pop(event.item_id, None) is None:
                    self.retracted[event.item_id] = event.branch, event.depth
                self.gone[f"{PIN_PREFIX}{event.item_id}"] = None
            case ItemPinned() | ItemUnpinned() | CompactionUndone() | CompactionRedone():
                self.anew = True
            case ContextCompacted():
                self.compacted = self.version, event
            case _:
                pass

    def _set(self, name: str, value: str | None) -> None:
        if value is None:
            self.fields.pop(name, None)
            self.gone[name] = None
        else:
            self.gone.pop(name, None)
            self.fields[name] = value


def changes(batch: Sequence[Logged]) -> list[Change]:
    """What a batch changes, conversation by conversation. Raises UnreadableEvent."""
    found: dict[tuple[str, str], Change] = {}
    for logged in batch:
        ident = (logged.tenant, logged.conversation_id)
        if (change := found.get(ident)) is None:
            change = found[ident] = Change(*ident, before=logged.version - 1)
        change.take(logged)
    return list(found.values())


class ContextView:
    """Writes the snapshots."""

    views: tuple[str, ...] = (CONTEXT,)
    pace_seconds = 0.02

    def __init__(self, redis: Redis, reader: EventReader, database: Database) -> None:
        self._redis = redis
        self._reader = reader
        self._positions = ViewPositions(database)
        self._mongo = MongoViews(database)
        self._unwritten: dict[str, tuple[ViewPosition, ViewPosition]] = {}
        """By place: (where MongoDB has it, where it is)."""
        self._touched: set[str] = set()
        """The snapshots that were written since a position was."""
        self._written_at = 0.0

    async def prepare(self) -> None:
        """Makes the places; Redis needs no schema. Reads the vocabulary that tokens are counted by, before the first event waits for it."""
        await self._positions.prepare()
        await count_off_loop([""])

    async def end_others(self, holders: Sequence[UUID]) -> None:
        """Nothing: Redis knows no transactions that are left open."""

    async def begin_anew(
        self, view: str, target: int, *, only_first: bool = False, only_ahead_of: int | None = None
    ) -> None:
        """Removes all snapshots, and goes through the log again. Raises PositionMoved."""
        async with self._mongo.transaction((view,), 0) as session:
            if not await self._positions.begin_anew(
                view, view, target, session, only_first=only_first, only_ahead_of=only_ahead_of
            ):
                return
        await self._remove_all()

    async def apply(self, places: Sequence[ViewPosition], new: int, batch: Sequence[Logged]) -> list[ViewPosition]:
        """Carries the snapshots of the places' conversations forward, then moves the places to `new`; says where they stand then.

        Of a parked conversation there is no snapshot any more: it would be an old one. Raises UnreadableEvent, PositionMoved,
        RedisError, PyMongoError and psycopg.Error; then the batch is to come again.
        """
        partitions = {place.partition for place in places}
        parked = {ident for place in places for ident in place.parked}
        batch = [logged for logged in batch if partition_of(logged.conversation_id) in partitions]
        applied = due(batch, parked)
        if left_out := {snapshot_key(it.tenant, it.conversation_id) for it in batch if it.conversation_id in parked}:
            await self._redis.unlink(*left_out)
        self._touched |= {snapshot_key(it.tenant, it.conversation_id) for it in applied}
        await self.carry_forward(changes(applied))
        if gone := released(applied, parked):
            await self.settle()
            return await self._advance(places, new, gone)
        moved = [place.advanced(new) for place in places]
        for place, after in zip(places, moved, strict=True):
            known, _ = self._unwritten.get(place.key, (place, place))
            self._unwritten[place.key] = known, after
        if time.monotonic() - self._written_at > UNWRITTEN_SECONDS:
            await self.settle()
        return moved

    async def settle(self) -> None:
        """Writes down how far the snapshots are. Not with each batch: what comes twice changes nothing the second time."""
        unwritten, self._unwritten = list(self._unwritten.values()), {}
        self._written_at = time.monotonic()
        together: defaultdict[tuple[int, int], list[ViewPosition]] = defaultdict(list)
        for known, place in unwritten:
            together[known.position, place.position].append(known)
        for (_, new), places in together.items():
            await self._advance(places, new)
        self._touched.clear()

    async def _advance(
        self, places: Sequence[ViewPosition], new: int, gone: Collection[str] = ()
    ) -> list[ViewPosition]:
        try:
            return await self._positions.advance(places, new, gone)
        except (PositionMoved, PyMongoError):
            # Others may have gone on. Where Redis lost what they wrote, ours would be an old snapshot that nobody replaces: better none.
            touched = sorted(self._touched)
            for at in range(0, len(touched), _SCANNED_AT_ONCE):
                await self._redis.unlink(*touched[at : at + _SCANNED_AT_ONCE])
            self._touched.clear()
            raise

    async def carry_forward(self, touched: Sequence[Change]) -> None:
        """Applies changes to their snapshots, or makes a snapshot anew where its change does not continue it."""
        for change in touched:
            if change.deleted:
                await put_snapshot(
                    self._redis, change.tenant, change.conversation_id, Snapshot(version=change.version, deleted=True)
                )
        carried = [change for change in touched if not change.deleted and not change.anew]
        answers = zip(carried, await self._answers(carried), strict=True)
        lost = [change for change, answer in answers if answer == _NOT_CONTINUED]
        lost += [change for change in touched if change.anew and not change.deleted]
        for at in range(0, len(lost), _REFILLED_AT_ONCE):
            await asyncio.gather(*map(self._refill, lost[at : at + _REFILLED_AT_ONCE]))

    async def _refill(self, change: Change) -> None:
        await refill(self._reader, self._redis, change.tenant, change.conversation_id, change.version)
        log.debug("context_refilled", conversation_id=change.conversation_id, version=change.version)

    async def _remove_all(self) -> None:
        """Removes all snapshots; a projector that still writes meanwhile writes what is right."""
        batch: list[bytes] = []
        async for name in self._redis.scan_iter(match=f"{KEY_PREFIX}*", count=_SCANNED_AT_ONCE, _type="hash"):
            batch.append(name)
            if len(batch) == _SCANNED_AT_ONCE:
                await self._redis.unlink(*batch)
                batch.clear()
        if batch:
            await self._redis.unlink(*batch)

    async def _answers(self, touched: Sequence[Change]) -> list[int]:
        """What the script says of each change: all of them in one round trip, the script itself included."""
        if not touched:
            return []
        counted = await snapshot_items([event for change in touched for event in change.appended.values()])
        came = iter(counted)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.script_load(_CHANGE)
        for change in touched:
            if (summary := await counted_summary(change.compacted)) is not None:
                change.fields["summary"] = msgspec.json.encode(summary).decode()
            told = {
                "before": change.before,
                "after": change.version,
                "fields": {**change.fields, "made": SNAPSHOT_FORMAT},
                "gone": list(change.gone),
                "retracted": [part for place in change.retracted.values() for part in place],
                "items": [
                    part
                    for entry in islice(came, len(change.appended))
                    for part in (entry.depth, entry.tokens, msgspec.json.encode(entry).decode())
                ],
                "block": BLOCK_DEPTHS,
                "most_items": MAX_ITEMS,
                "most_bytes": MAX_BYTES,
                "seconds": SNAPSHOT_TTL_SECONDS,
            }
            if change.branch is not None:
                told["branch"] = change.branch
            pipeline.evalsha(
                _SHA1, 1, snapshot_key(change.tenant, change.conversation_id), msgspec.msgpack.encode(told)
            )
        _, *answers = await pipeline.execute()
        return answers
