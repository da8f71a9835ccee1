"""The view `context`: what a batch of events changes in the snapshots in Redis. Its position is in MongoDB like any view's.

Redis first, then the position: a batch may come twice, and changes nothing the second time. A snapshot that is not there,
or that the batch does not continue, is made anew from the log.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from importlib import resources

import msgspec
import structlog
from msgspec import UNSET, Struct
from redis.asyncio import Redis

from domain.events import (
    ConversationDescribed,
    ConversationStarted,
    ItemAppended,
    ItemRetracted,
)
from infrastructure.event_log.reader import EventReader, Logged
from projections.context_snapshots import (
    KEPT_SECONDS,
    KEY_PREFIX,
    MOST_BYTES,
    MOST_ITEMS,
    Snapshot,
    field,
    key,
    put,
)
from projections.parking import due, released
from projections.positions import Place, Positions
from projections.read_models import CONTEXT, deletes
from projections.snapshot_making import entries, refill

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
    appended: dict[str, ItemAppended] = {}
    deleted: bool = False
    branched: bool = False

    def take(self, logged: Logged) -> None:
        """Adds the next event of the conversation. Raises UnreadableEvent."""
        self.version = logged.version
        if deletes(logged):
            self.deleted = True
            return
        event = logged.event
        match event:
            case ConversationStarted():
                self.fields |= {"branch": 0, "depth": 0, "policy": msgspec.json.encode(event.context_policy).decode()}
                self._set("instructions", event.instructions)
            case ConversationDescribed():
                if event.instructions is not UNSET:
                    self._set("instructions", event.instructions)
                if event.context_policy is not UNSET:
                    self.fields["policy"] = msgspec.json.encode(event.context_policy).decode()
            case ItemAppended():
                self.branched = self.branched or self.branch not in (None, event.branch)
                self.branch = event.branch
                self.appended[field(event.branch, event.depth)] = event
                self.fields |= {"branch": event.branch, "depth": event.depth, "head": event.item_id}
            case ItemRetracted():
                name = field(event.branch, event.depth)
                if self.appended.pop(name, None) is None:
                    self.gone[name] = None
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

    def __init__(self, redis: Redis, reader: EventReader, positions: Positions) -> None:
        self._redis = redis
        self._reader = reader
        self._positions = positions

    async def prepare(self) -> None:
        """Nothing: Redis needs no schema."""

    async def apply(self, places: Sequence[Place], new: int, batch: Sequence[Logged]) -> list[Place]:
        """Carries the snapshots of the batch's conversations forward, then moves the view to `new`; says where it stands then.

        Of a parked conversation there is no snapshot any more: it would be an old one. Raises UnreadableEvent, Fenced,
        RedisError, PyMongoError and psycopg.Error; then the batch is to come again.
        """
        parked = places[0].parked
        applied = due(batch, parked)
        if left_out := {key(it.tenant, it.conversation_id) for it in batch if it.conversation_id in parked}:
            await self._redis.unlink(*left_out)
        await self.carry_forward(changes(applied))
        return await self._positions.advance(places, new, released(applied, parked))

    async def carry_forward(self, touched: Sequence[Change]) -> None:
        """Applies changes to their snapshots, or makes a snapshot anew where its change does not continue it."""
        for change in touched:
            if change.deleted:
                await put(
                    self._redis, change.tenant, change.conversation_id, Snapshot(version=change.version, deleted=True)
                )
        carried = [change for change in touched if not change.deleted and not change.branched]
        answers = zip(carried, await self._answers(carried), strict=True)
        lost = [change for change, answer in answers if answer == _NOT_CONTINUED]
        lost += [change for change in touched if change.branched and not change.deleted]
        for at in range(0, len(lost), _REFILLED_AT_ONCE):
            await asyncio.gather(*map(self._refill, lost[at : at + _REFILLED_AT_ONCE]))

    async def _refill(self, change: Change) -> None:
        await refill(self._reader, self._redis, change.tenant, change.conversation_id, change.version)
        log.debug("context_refilled", conversation_id=change.conversation_id, version=change.version)

    async def empty_some(self, place: Place) -> bool:
        """Removes all snapshots; a projector that still writes meanwhile writes what is right. Says that it is empty."""
        batch: list[bytes] = []
        async for name in self._redis.scan_iter(match=f"{KEY_PREFIX}*", count=_SCANNED_AT_ONCE, _type="hash"):
            batch.append(name)
            if len(batch) == _SCANNED_AT_ONCE:
                await self._redis.unlink(*batch)
                batch.clear()
        if batch:
            await self._redis.unlink(*batch)
        await self._positions.emptied(place)
        return True

    async def _answers(self, touched: Sequence[Change]) -> list[int]:
        """What the script says of each change: all of them in one round trip, the script itself included."""
        if not touched:
            return []
        counted = await entries([event for change in touched for event in change.appended.values()])
        items = iter(msgspec.json.encode(entry).decode() for entry in counted)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.script_load(_CHANGE)
        for change in touched:
            told = {
                "before": change.before,
                "after": change.version,
                "fields": change.fields,
                "gone": list(change.gone),
                "items": [part for name in change.appended for part in (name, next(items))],
                "most_items": MOST_ITEMS,
                "most_bytes": MOST_BYTES,
                "seconds": KEPT_SECONDS,
            }
            if change.branch is not None:
                told["branch"] = change.branch
            pipeline.evalsha(_SHA1, 1, key(change.tenant, change.conversation_id), msgspec.msgpack.encode(told))
        _, *answers = await pipeline.execute()
        return answers
