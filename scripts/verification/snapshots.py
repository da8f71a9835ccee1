"""Compares the context snapshots in Redis with the log. A missing snapshot is no difference, because the store makes
snapshots when needed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from context.snapshot_from_log import snapshot_of
from context.snapshot_store import read_stored
from context.snapshots import (
    ITEMS_KEY_PREFIX,
    KEY_PREFIX,
    REQUEST_PREFIX,
    UNREADABLE,
    Snapshot,
    from_stored,
    request_fields,
    snapshot_keys,
    to_elements,
    to_fields,
)
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from projections.views.catalog import CONTEXT
from scripts.verification.differences import Difference, fields_that_differ
from scripts.verification.streams import Stream
from scripts.verification.views import Moment

_PAGE_EVENTS = 1_000


class Snapshots:
    """At the end, call `not_in_log`."""

    def __init__(self, redis: Redis, reader: EventReader) -> None:
        self._redis = redis
        self._reader = reader
        self._seen: set[str] = set()
        self.compared = 0
        self.absent = 0

    async def compare(self, streams: Sequence[Stream], at: Moment) -> AsyncIterator[Difference]:
        """The snapshots are read after the moment `at`. So a snapshot that is older than `at` is a difference."""
        for stream in streams:
            self._seen |= set(snapshot_keys(stream.tenant, stream.conversation_id))
            if not stream.readable or at.parked(CONTEXT, stream.conversation_id):
                self.absent += 1
                continue
            for difference in await self._differences(stream, at.position(CONTEXT, stream.conversation_id)):
                yield difference

    async def not_in_log(self) -> AsyncIterator[Difference]:
        for prefix in (KEY_PREFIX, ITEMS_KEY_PREFIX):
            async for name in self._redis.scan_iter(match=f"{prefix}*", count=1_000):
                text = name.decode("utf-8", "replace")
                if text in self._seen:
                    continue
                tenant, _, conversation_id = text.removeprefix(prefix).rpartition(":")
                head = await self._reader.head(conversation_id) if conversation_id.startswith("conv_") else None
                if head is None or head.tenant != tenant:
                    note = "the log does not have the conversation"
                    yield Difference(CONTEXT, "extra", conversation_id, text, note=note)

    async def _differences(self, stream: Stream, position: int) -> list[Difference]:
        name, _ = snapshot_keys(stream.tenant, stream.conversation_id)
        try:
            fields, elements = await read_stored(self._redis, stream.tenant, stream.conversation_id)
            found = from_stored(fields, elements)
        except (ResponseError, *UNREADABLE) as error:
            self.compared += 1
            return [Difference(CONTEXT, "unreadable", stream.conversation_id, name, note=type(error).__name__)]
        if found is None or (found.length and not elements):  # Redis may have evicted the list
            self.absent += 1
            return []
        self.compared += 1
        events = stream.events
        if not events or found.version > events[-1].version:
            events = await self._read_up_to(stream.conversation_id, found.version)
        if not events or events[0].version != 1 or found.version > events[-1].version:
            return self._unused()
        projected = stream.until(position)
        if projected and found.version < projected[-1].version:
            note = f"version {projected[-1].version} was projected"
            return [Difference(CONTEXT, "stale", stream.conversation_id, name, found.version, note=note)]
        expected = await snapshot_of(events[: found.version])
        if expected.chain_hash != found.chain_hash:
            return self._unused()
        different = fields_that_differ(
            _values(to_fields(expected), to_elements(expected)),
            _values(_without_older_requests(fields, found), elements),
        )
        if not different:
            return []
        return [Difference(CONTEXT, "different", stream.conversation_id, name, found.version, fields=different)]

    def _unused(self) -> list[Difference]:
        """Readers ignore a snapshot whose events are no longer in the log. The next event replaces it."""
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


def _without_older_requests(fields: Mapping[str, str], found: Snapshot) -> dict[str, str]:
    """Readers ignore the requests that are left out here."""
    requests = request_fields(found.last_requests)
    return {name: value for name, value in fields.items() if not name.startswith(REQUEST_PREFIX) or name in requests}


def _values(fields: Mapping[str, str | int], elements: Sequence[bytes]) -> dict[str, str]:
    """A restart of Postgres changes the incarnation, so the incarnation is left out."""
    values = {name: str(value) for name, value in fields.items() if name != "incarnation"}
    return {**values, "items": b"\n".join(elements).decode("utf-8", "replace")}
