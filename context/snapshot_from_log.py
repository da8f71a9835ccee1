"""Making a context snapshot of a conversation's events: read back from the log, or given. Shape: `context_snapshots.py`."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis

from context.conversation_settings import ConversationSettings, described, settings_at, summary_of, unretracted
from context.rendering import counted_text, fixed_tokens
from context.snapshots import MAX_BYTES, MAX_ITEMS, Entry, Snapshot, put
from context.tokens import count_off_loop
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ConversationDeleted,
    ConversationStarted,
    Event,
    ItemAppended,
    ItemPinned,
    ItemRetracted,
    ItemUnpinned,
)
from domain.items import from_stored
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded

_PAGE = 128


async def refill(reader: EventReader, redis: Redis, tenant: str, conversation_id: str, version: int) -> Snapshot:
    """Makes the snapshot at `version` from the log, puts it there unless a newer one is, and returns it.

    `tenant` is whose conversation it is: the caller knows. Raises psycopg.Error and redis.exceptions.RedisError.
    """
    snapshot = await snapshot_from_log(reader, conversation_id, version)
    await put(redis, tenant, conversation_id, snapshot)
    return snapshot


async def entries(appended: Sequence[ItemAppended]) -> list[Entry]:
    """The items of these events, counted; large ones off the event loop."""
    items = [from_stored(event.item) for event in appended]
    counts = await count_off_loop([counted_text(item) for item in items])
    return [
        Entry(count + fixed_tokens(item), event.depth, event.item_id, Raw(event.item))
        for event, item, count in zip(appended, items, counts, strict=True)
    ]


async def snapshot_from_log(reader: EventReader, conversation_id: str, version: int) -> Snapshot:
    """The snapshot at `version`, which the conversation has reached: read backwards, no further than it reaches back.

    What stands beside the items comes from the few events that say it, found by index. Raises psycopg.Error when Postgres is
    away.
    """
    end = _End()
    until = version
    while until > 0 and not end.complete:
        page = await reader.conversation_backwards(conversation_id, until=until, limit=_PAGE)
        for recorded in page:
            end.take(recorded.event)
        until = page[-1].version - 1 if page else 0
    stands = await settings_at(reader, conversation_id, version)
    pins = await unretracted(reader, conversation_id, version, stands.pinned)
    return await _snapshot(end, version, stands, [recorded.event for recorded in pins.values()])


async def snapshot_of(events: Sequence[Recorded]) -> Snapshot:
    """The snapshot after these events: all that a conversation has up to one of them, in order."""
    end = _End()
    for recorded in reversed(events):
        if end.complete:
            break
        end.take(recorded.event)
    first = events[0].event
    pinned, compacted = _standing_of(events)
    instructions, policy = described(events)
    stands = ConversationSettings(
        instructions=instructions,
        policy=policy,
        pinned=pinned,
        compacted=compacted,
        forked_from=first.forked_from if isinstance(first, ConversationStarted) else None,
    )
    pins = [it.event for it in events if isinstance(it.event, ItemAppended) and it.event.item_id in pinned]
    return await _snapshot(end, events[-1].version, stands, pins)


def _standing_of(events: Sequence[Recorded]) -> tuple[tuple[str, ...], tuple[int, ContextCompacted] | None]:
    """What is pinned after these events, and which summary stands, at which version."""
    pinned: tuple[str, ...] = ()
    active = 0
    for recorded in events:
        match recorded.event:
            case ItemPinned() | ItemUnpinned():
                pinned = recorded.event.pinned
            case ItemRetracted(item_id=item_id):
                pinned = tuple(each for each in pinned if each != item_id)
            case ContextCompacted():
                active = recorded.version
            case CompactionUndone() | CompactionRedone():
                active = recorded.event.active
            case _:
                pass
    compacted = events[active - 1].event if active else None
    return pinned, (active, compacted) if isinstance(compacted, ContextCompacted) else None


async def _snapshot(end: "_End", version: int, stands: ConversationSettings, pinned: Sequence[Event]) -> Snapshot:
    if end.deleted:
        return Snapshot(version=version, deleted=True)
    oldest_first = end.kept[::-1]
    items = await entries(oldest_first)
    fork = stands.forked_from
    first = end.first if end.complete else fork.depth + 1 if fork else 1
    pins = await _pins(pinned)
    pins_too_large = sum(len(msgspec.json.encode(entry)) for entry in pins) > MAX_BYTES
    size = sum(len(msgspec.json.encode(entry)) for entry in items)
    while size > MAX_BYTES:
        entry = items.pop(0)
        first = entry.depth + 1
        size -= len(msgspec.json.encode(entry))
    return Snapshot(
        version=version,
        instructions=stands.instructions,
        policy=stands.policy,
        branch=end.head.branch if end.head else 0,
        head=end.head.item_id if end.head else fork.item_id if fork else None,
        depth=end.head.depth if end.head else fork.depth if fork else 0,
        first=first,
        items=tuple(items),
        pins=() if pins_too_large else pins,
        pins_too_large=pins_too_large,
        summary=await summary_of(stands.compacted),
    )


async def _pins(pinned: Sequence[Event]) -> tuple[Entry, ...]:
    """The entries of pinned items, oldest first."""
    appended = [event for event in pinned if isinstance(event, ItemAppended)]
    return tuple(sorted(await entries(appended), key=lambda entry: entry.depth))


class _End(Struct):
    """What a snapshot holds of a conversation whose events are taken newest first. `complete`: no more of them are needed.

    Where the path enters another branch the snapshot ends: what lies before is for the log.
    """

    head: ItemAppended | None = None
    kept: list[ItemAppended] = []
    first: int = 1
    complete: bool = False
    deleted: bool = False
    _retracted: set[str] = set()
    _size: int = 0

    def take(self, event: Event) -> None:
        match event:
            case ConversationDeleted():
                self.deleted = self.complete = True
            case ItemRetracted():
                self._retracted.add(event.item_id)
            case ItemAppended() if not self.complete:
                self._take_item(event)
            case _:
                pass

    def _take_item(self, event: ItemAppended) -> None:
        self.head = self.head or event
        if event.branch != self.head.branch:
            self.complete = True
        elif event.item_id in self._retracted:
            self.first = event.depth
        elif len(self.kept) == MAX_ITEMS or self._size + len(event.item) > MAX_BYTES:
            self.first = event.depth + 1
            self.complete = True
        else:
            self.kept.append(event)
            self.first = event.depth
            self._size += len(event.item)
