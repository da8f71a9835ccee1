"""Changes a snapshot when the head is moved. This is faster than making the snapshot again from the log."""

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from context.branch_paths import active_segment
from context.conversation_settings import settings_at
from context.item_counts import ItemCounts
from context.last_requests import MAX_LAST_REQUESTS
from context.segment_pages import SegmentPage, segment_pages
from context.snapshot_from_log import snapshot_items
from context.snapshot_store import read_stored, run_script, write_arguments
from context.snapshots import MAX_ITEMS, SNAPSHOT_FORMAT, UNREADABLE, LastRequest, Snapshot, from_stored, request_fields
from domain.events import ItemAppended
from domain.paths import common_depth, is_open
from infrastructure.event_log.incarnation import StreamVersion
from infrastructure.event_log.reader import EventReader

_PAGE_EVENTS = 200
_MAX_EVENTS = 1_000


async def move_snapshot(
    reader: EventReader,
    redis: Redis,
    tenant: str,
    conversation_id: str,
    *,
    before: int,
    at: StreamVersion,
    counts: ItemCounts,
) -> bool:
    """Brings the snapshot of version `before` to the version of `at`.

    Returns False if the snapshot must be made again from the log. Raises psycopg.Error and
    redis.exceptions.RedisError.
    """
    stored = await _stored(redis, tenant, conversation_id)
    if stored is None or stored.incarnation != at.incarnation or stored.version < before:
        return False
    if stored.version >= at.version:  # the events were applied before
        return True
    if stored.version > before:
        return False
    old, new = await asyncio.gather(
        active_segment(reader, conversation_id, before), active_segment(reader, conversation_id, at.version)
    )
    if is_open(new.branches) and new.branches[-1].branch <= before:
        return False
    settings = await settings_at(reader, conversation_id, at.version, new.branches, by_own_events=True)
    if settings.pinned or settings.compaction or settings.forked_from:
        return False
    kept = common_depth(old.branches, new.branches)
    if kept < stored.first - 1 or (stored.first > 1 and kept - stored.first < MAX_ITEMS // 2):
        return False
    newer = _NewerItems(kept, stored.first - 1, stored.last_requests)
    async for page in segment_pages(reader, new, _PAGE_EVENTS):
        newer.add_older(page)
        if newer.complete:
            break
        if newer.events > _MAX_EVENTS:
            return False
    if newer.last is None:
        return False
    items = {item.depth: item for item in await snapshot_items(newer.newest_first[::-1], counts)}
    depths = range(kept + 1, newer.last.depth + 1)
    fields: dict[str, str | int] = {
        "version": at.version,
        "chain_hash": at.chain_hash,
        "incarnation": at.incarnation,
        "format": SNAPSHOT_FORMAT,
        "branch": newer.last.branch,
        "depth": newer.last.depth,
        **request_fields(newer.last_requests),
    }
    elements = [msgspec.json.encode(items[depth]) if depth in items else b"" for depth in depths]
    return await run_script(redis, tenant, conversation_id, write_arguments(before, fields, elements, keep=kept)) >= 0


async def _stored(redis: Redis, tenant: str, conversation_id: str) -> Snapshot | None:
    try:
        fields, _ = await read_stored(redis, tenant, conversation_id, 1)
        stored = from_stored(fields)
    except UNREADABLE:
        return None
    if stored is None or stored.deleted or len(stored.last_requests) == MAX_LAST_REQUESTS:
        return None
    settings = stored.settings
    return None if settings.needs_log or settings.summary or settings.pins else stored


class _NewerItems(Struct):
    """Collects the items of the new path that the snapshot lacks.

    `first_depth`: requests with a smaller depth need not be found. `stored`: the last requests on the old path.
    """

    kept: int
    first_depth: int
    stored: Mapping[str, LastRequest]
    newest_first: list[ItemAppended] = []
    last_requests: dict[str, LastRequest] = {}
    last: ItemAppended | None = None
    events: int = 0
    complete: bool = False

    def add_older(self, page: SegmentPage) -> None:
        self.events += len(page.events)
        for event in page.appended:
            self.last = self.last or event
            if event.depth > self.kept and event.item_id not in page.retracted:
                self.newest_first.append(event)
        for request in page.requests:
            self.last_requests.setdefault(request.model, LastRequest(request.version, request.sequence))
        oldest = page.appended[-1].depth if page.appended else self.kept + 1
        if oldest > self.kept:
            return
        # Both paths have all items before this page, so the last requests before this page are the same. The exception
        # is a request whose answer opened a branch that the new path does not take. Its depth is `kept` or more.
        before = page.events[-1].version
        older = {
            model: last
            for model, last in self.stored.items()
            if last.version < before and last.sequence.depth < self.kept
        }
        searched = self.stored.keys() - self.last_requests.keys() - older.keys()
        if not searched or oldest < self.first_depth:
            self.complete = True
            self.last_requests = {**older, **self.last_requests}
