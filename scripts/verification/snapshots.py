"""Compares the context snapshots in Redis with the log.

A missing snapshot is not a difference: the store makes it when it is needed.
"""

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
"""What READ_HASH returns for a key that does not exist: an empty MessagePack array."""

_PAGE_EVENTS = 1_000


class Snapshots:
    """Compares the snapshots of one page of conversations after another.

    At the end, finds the snapshots of conversations that are not in the log.
    """

    def __init__(self, redis: Redis, reader: EventReader) -> None:
        self._redis = redis
        self._reader = reader
        self._seen: set[str] = set()
        self.compared = 0
        self.absent = 0

    async def compare(self, streams: Sequence[Stream], at: Moment) -> AsyncIterator[Difference]:
        """The differences of these conversations. Parked conversations are not compared.

        Open `at` before the call. Then a snapshot that is older than `at` is a difference.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.eval(READ_HASH, 1, snapshot_key(stream.tenant, stream.conversation_id))
        for stream, packed in zip(streams, await pipeline.execute(raise_on_error=False), strict=True):
            self._seen.add(snapshot_key(stream.tenant, stream.conversation_id))
            if (
                packed == _EMPTY
                or _has_other_format(packed)
                or not stream.readable
                or at.parked(CONTEXT, stream.conversation_id)
            ):
                self.absent += 1
                continue
            self.compared += 1
            position = at.position(CONTEXT, stream.conversation_id)
            for difference in await self._differences(stream, packed, position):
                yield difference

    async def not_in_log(self) -> AsyncIterator[Difference]:
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
            found = from_fields(fields)
        except (ResponseError, *UNREADABLE) as error:
            return [Difference(CONTEXT, "unreadable", stream.conversation_id, name, note=type(error).__name__)]
        events = stream.events
        if not events or found.version > events[-1].version:
            # The snapshot is newer than the events that were read.
            events = await self._read_up_to(stream.conversation_id, found.version)
        if not events or found.version > events[-1].version:
            return self._unused()
        projected = stream.until(position)
        if projected and found.version < projected[-1].version:
            note = f"version {projected[-1].version} was projected"
            return [Difference(CONTEXT, "stale", stream.conversation_id, name, found.version, note=note)]
        expected = await snapshot_of(events[: found.version])
        if expected.chain_hash != found.chain_hash:
            return self._unused()
        different = fields_that_differ(dict(_comparable(expected, found.first)), dict(_comparable(found, 0)))
        different |= _beyond_bounds(events[: found.version], expected, found) | _not_as_written(fields)
        if not different:
            return []
        return [Difference(CONTEXT, "different", stream.conversation_id, name, found.version, fields=different)]

    def _unused(self) -> list[Difference]:
        """Counts the snapshot as absent, and returns no differences.

        The snapshot is from events that the log no longer has, for example after a restore. Readers ignore such a
        snapshot, and the next event replaces it.
        """
        self.compared -= 1
        self.absent += 1
        return []

    async def _read_up_to(self, conversation_id: str, version: int) -> list[Recorded]:
        events: list[Recorded] = []
        while page := await self._reader.conversation(
            conversation_id, after=len(events), until=version, limit=_PAGE_EVENTS
        ):
            events += page
        return events


def _has_other_format(packed: bytes | RedisError) -> bool:
    """Whether another version of the code made the snapshot. The store ignores such a snapshot."""
    if isinstance(packed, RedisError):
        return False
    try:
        fields = unpack_hash(packed)
    except UNREADABLE:
        return False
    return "deleted" not in fields and "version" in fields and fields.get("made") != SNAPSHOT_FORMAT


def _comparable(snapshot: Snapshot, first: int) -> Iterator[tuple[str, Any]]:
    """The values that must be equal in two snapshots of the same version.

    Items are compared from the depth `first` on.
    """
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
        "is_fork",
    ):
        yield name, getattr(snapshot, name)
    yield "pins", [(entry.item_id, entry.depth, entry.tokens, bytes(entry.item).decode()) for entry in snapshot.pins]
    kept = [entry for entry in snapshot.items if entry.depth >= first]
    yield "entries", [(entry.depth, entry.item_id, entry.tokens, entry.copy_of) for entry in kept]
    yield "items", [bytes(entry.item).decode() for entry in kept]


def _beyond_bounds(events: Sequence[Any], expected: Snapshot, found: Snapshot) -> dict[str, tuple[str, str]]:
    """The field `first`, if the snapshot starts at the wrong item.

    A snapshot may start later than one that is made now, but only if it was full at some time: its oldest items were
    removed then. It must never start earlier.
    """
    if found.deleted or found.first == expected.first:
        return {}
    start = {"first": (str(expected.first), str(found.first))}
    if found.first < expected.first:
        return start
    items = [recorded.event.item for recorded in events if recorded.event.topic == "item.appended"]
    # 160 bytes: the size of an entry without its item (ids, numbers, field names).
    if len(items) > MAX_ITEMS or sum(len(item) + 160 for item in items) > MAX_BYTES:
        return {}
    return start


def _not_as_written(fields: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Fields of the hash that disagree with the items and pins in the hash: counts, bytes, tokens, blocks, pinned items."""
    written = {name: str(value) for name, value in to_fields(from_fields(fields)).items()}
    return fields_that_differ(written, fields)
