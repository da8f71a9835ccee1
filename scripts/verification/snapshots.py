"""The context snapshots in Redis against ones made from the log. One that is not there is no fault: it is made when needed."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from context.snapshot_from_log import snapshot_of
from context.snapshot_store import READ_HASH, unpack_hash
from context.snapshots import (
    KEY_PREFIX,
    MAX_BYTES,
    MAX_ITEMS,
    SNAPSHOT_FORMAT,
    UNREADABLE,
    Snapshot,
    from_fields,
    snapshot_key,
    to_fields,
)
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from projections.views.catalog import CONTEXT
from scripts.verification.differences import Difference, fields_that_differ
from scripts.verification.streams import Stream
from scripts.verification.views import Moment

_EMPTY = b"\x90"
_PAGE_EVENTS = 1_000


class Snapshots:
    """Compares portions of the log, one after the other, and at the end looks for what belongs to none of them."""

    def __init__(self, redis: Redis, reader: EventReader) -> None:
        self._redis = redis
        self._reader = reader
        self._seen: set[str] = set()
        self.compared = 0
        self.absent = 0

    async def compare(self, streams: Sequence[Stream], at: Moment) -> AsyncIterator[Difference]:
        """What differs in these conversations, but for those that are parked; `at` is before Redis is asked."""
        pipeline = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.eval(READ_HASH, 1, snapshot_key(stream.tenant, stream.conversation_id))
        for stream, packed in zip(streams, await pipeline.execute(raise_on_error=False), strict=True):
            self._seen.add(snapshot_key(stream.tenant, stream.conversation_id))
            if (
                packed == _EMPTY
                or _made_otherwise(packed)
                or not stream.readable
                or at.parks(CONTEXT, stream.conversation_id)
            ):
                self.absent += 1
                continue
            self.compared += 1
            position = at.position(CONTEXT, stream.conversation_id)
            for difference in await self._differences(stream, packed, position):
                yield difference

    async def strays(self) -> AsyncIterator[Difference]:
        """Snapshots of conversations that the log does not have."""
        async for name in self._redis.scan_iter(match=f"{KEY_PREFIX}*", count=1_000):
            text = name.decode("utf-8", "replace")
            if text in self._seen:
                continue
            tenant, _, conversation_id = text.removeprefix(KEY_PREFIX).rpartition(":")
            head = await self._reader.head(conversation_id) if conversation_id.startswith("conv_") else None
            if head is None or head.tenant != tenant:
                yield Difference(CONTEXT, "extra", conversation_id, text, note="the log does not have the conversation")

    async def _differences(self, stream: Stream, packed: bytes | RedisError, position: int) -> list[Difference]:
        name = snapshot_key(stream.tenant, stream.conversation_id)
        try:
            if isinstance(packed, RedisError):
                raise packed
            fields = unpack_hash(packed)
            held = from_fields(fields)
        except (ResponseError, *UNREADABLE) as error:
            return [Difference(CONTEXT, "unreadable", stream.conversation_id, name, note=type(error).__name__)]
        events = stream.events
        if not events or held.version > events[-1].version:
            # It is newer than what was read of the log.
            events = await self._read_up_to(stream.conversation_id, held.version)
        if not events or held.version > events[-1].version:
            note = "the log does not have this version"
            return [Difference(CONTEXT, "different", stream.conversation_id, name, held.version, note=note)]
        due = stream.until(position)
        if due and held.version < due[-1].version:
            note = f"version {due[-1].version} was projected"
            return [Difference(CONTEXT, "stale", stream.conversation_id, name, held.version, note=note)]
        expected = await snapshot_of(events[: held.version])
        unlike = fields_that_differ(dict(_comparable(expected, held.first)), dict(_comparable(held, 0)))
        unlike |= _beyond_bounds(events[: held.version], expected, held) | _not_as_written(fields)
        if not unlike:
            return []
        return [Difference(CONTEXT, "different", stream.conversation_id, name, held.version, fields=unlike)]

    async def _read_up_to(self, conversation_id: str, version: int) -> list[Recorded]:
        events: list[Recorded] = []
        while page := await self._reader.conversation(
            conversation_id, after=len(events), until=version, limit=_PAGE_EVENTS
        ):
            events += page
        return events


def _made_otherwise(packed: bytes | RedisError) -> bool:
    """Whether it was made by other code than this: nobody reads it any more."""
    if isinstance(packed, RedisError):
        return False
    try:
        fields = unpack_hash(packed)
    except UNREADABLE:
        return False
    return "deleted" not in fields and "version" in fields and fields.get("made") != SNAPSHOT_FORMAT


def _comparable(snapshot: Snapshot, first: int) -> Iterator[tuple[str, Any]]:
    """What two snapshots of one version have in common from the depth `first` on."""
    for name in (
        "version",
        "deleted",
        "instructions",
        "policy",
        "branch",
        "head",
        "depth",
        "summary",
        "pins_too_large",
    ):
        yield name, getattr(snapshot, name)
    yield "pins", [(entry.item_id, entry.depth, entry.tokens, bytes(entry.item).decode()) for entry in snapshot.pins]
    kept = [entry for entry in snapshot.items if entry.depth >= first]
    yield "places", [(entry.depth, entry.item_id, entry.tokens) for entry in kept]
    yield "items", [bytes(entry.item).decode() for entry in kept]


def _beyond_bounds(events: Sequence[Any], expected: Snapshot, stored: Snapshot) -> dict[str, tuple[str, str]]:
    """A snapshot may reach back less far than one made now, but only where it once was full; and never further."""
    if stored.deleted or stored.first == expected.first:
        return {}
    reached = {"first": (str(expected.first), str(stored.first))}
    if stored.first < expected.first:
        return reached
    items = [recorded.event.item for recorded in events if recorded.event.topic == "item.appended"]
    # What an entry has beside its item: ids, a number and names.
    if len(items) > MAX_ITEMS or sum(len(item) + 160 for item in items) > MAX_BYTES:
        return {}
    return reached


def _not_as_written(fields: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Where a hash is not what its own items and pins are written as: counts, bytes, tokens, who is in which block, who is pinned."""
    written = {name: str(value) for name, value in to_fields(from_fields(fields)).items()}
    return fields_that_differ(written, fields)
