"""Makes a context snapshot from a conversation's events."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from context.branch_paths import active_path, active_segment
from context.conversation_settings import (
    ConversationSettings,
    counted_summary,
    inherits,
    retracted_by,
    settings_at,
)
from context.encodings import DEFAULT_ENCODING
from context.item_counts import ItemCounts
from context.segment_pages import PageMaker, SegmentPage, segment_pages
from context.snapshot_store import put_snapshot
from context.snapshots import (
    MAX_BYTES,
    MAX_ITEMS,
    MAX_PINNED_BYTES,
    LastRequest,
    Snapshot,
    SnapshotItem,
    SnapshotSettings,
    newest_requests,
    snapshot_keys,
)
from context.summary_changes import SummaryChanges
from context.withdrawn_summaries import is_withdrawn_by
from domain.conversation import fold
from domain.events import (
    ContextCompacted,
    ConversationDeleted,
    ConversationStarted,
    ItemAppended,
    PathBranch,
)
from domain.items import from_stored, in_short
from domain.paths import PathSegment
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded

_PAGE_EVENTS = 1_000


async def refill(
    reader: EventReader,
    redis: Redis,
    tenant: str,
    conversation_id: str,
    version: int,
    *,
    counts: ItemCounts | None = None,
) -> Snapshot | None:
    """Makes the snapshot, and writes it with `put_snapshot`, which may keep a newer one.

    None if the log does not have the conversation. `tenant` is not checked. Raises psycopg.Error and
    redis.exceptions.RedisError.
    """
    snapshot = await snapshot_from_log(reader, conversation_id, version, counts)
    if snapshot is not None:
        await put_snapshot(redis, tenant, conversation_id, snapshot)
    # A restart of Postgres changes the incarnation. So this snapshot may have replaced the tombstone of a later
    # deletion.
    head = await reader.head(conversation_id)
    if snapshot is None or head is None or (head.deleted and not snapshot.deleted):
        await redis.unlink(*snapshot_keys(tenant, conversation_id))
    return snapshot


async def snapshot_items(appended: Sequence[ItemAppended], counts: ItemCounts) -> list[SnapshotItem]:
    items = [(event.item_id, from_stored(event.item)) for event in appended]
    tokens = await counts.of(items, DEFAULT_ENCODING)
    elements: list[SnapshotItem] = []
    for event, (_, item), item_tokens in zip(appended, items, tokens, strict=True):
        stored, form = in_short(item)
        json = Raw(msgspec.json.encode(stored) if form else event.item)
        elements.append(SnapshotItem(event.item_id, json, item_tokens, event.depth, form, event.copy_of))
    return elements


async def snapshot_from_log(
    reader: EventReader, conversation_id: str, version: int, counts: ItemCounts | None = None
) -> Snapshot | None:
    """The snapshot at `version`, or at the last version if the last version is lower.

    None if the log does not have the conversation. Raises psycopg.Error.
    """
    page = await reader.conversation_backwards(conversation_id, until=version, limit=_PAGE_EVENTS)
    if not page:
        return None
    last = page[0]
    if isinstance(last.event, ConversationDeleted):
        return _tombstone(last)
    path = await active_segment(reader, conversation_id, last.version)
    settings = await settings_at(reader, conversation_id, last.version, path.branches, by_own_events=True)
    pin_events = await reader.items(conversation_id, settings.pinned, until=last.version) if settings.pinned else []
    retracted = retracted_by(pin_events)
    settings = replace(settings, pinned=tuple(item_id for item_id in settings.pinned if item_id not in retracted))
    newest = _newest_items(settings, path)
    async for segment_page in segment_pages(reader, path, _PAGE_EVENTS, first_page=page):
        newest.add_older(segment_page)
        if newest.complete:
            break
    return await _snapshot(newest, last, settings, path, pin_events, counts=counts)


async def snapshot_of(events: Sequence[Recorded]) -> Snapshot:
    """The snapshot after `events`, which are all events of a conversation. It must equal the snapshot from the log."""
    started, state = events[0].event, fold(recorded.event for recorded in events)
    assert state is not None
    assert isinstance(started, ConversationStarted)
    settings = ConversationSettings(
        instructions=state.instructions,
        policy=state.context_policy,
        pinned=state.pinned,
        compaction=_active_summary(events, state.path),
        forked_from=started.forked_from,
        inherits=inherits(started),
    )
    if state.status == "deleted":
        return _tombstone(events[-1])
    path = active_path(state.id, state.version, state.path, state.moved_at)
    newest = _newest_items(settings, path)
    newest.add_older(PageMaker(path).page(events[::-1]))
    return await _snapshot(newest, events[-1], settings, path, events)


def _active_summary(
    events: Sequence[Recorded], branches: tuple[PathBranch, ...]
) -> tuple[int, ContextCompacted] | None:
    changes = SummaryChanges(branches)
    for recorded in reversed(events):
        if changes.add_older(recorded) and not any(is_withdrawn_by(recorded, later) for later in events):
            assert isinstance(recorded.event, ContextCompacted)
            return recorded.version, recorded.event
    return None


def _tombstone(last: Recorded) -> Snapshot:
    return Snapshot(version=last.version, deleted=True, incarnation=last.incarnation)


async def _snapshot(
    newest: "_NewestItems",
    last: Recorded,
    settings: ConversationSettings,
    path: PathSegment,
    pin_events: Iterable[Recorded],
    *,
    counts: ItemCounts | None = None,
) -> Snapshot:
    """`settings`: without retracted pins. `pin_events`: the events about the pinned items, and perhaps others."""
    counts = counts or ItemCounts()
    items = await snapshot_items(newest.newest_first[::-1], counts)
    first, size = newest.first, _size(items)
    while size > MAX_BYTES:
        oldest = items.pop(0)
        first = oldest.depth + 1
        size -= _size([oldest])
    own_pins = [
        (event, row.version)
        for row in pin_events
        if isinstance(event := row.event, ItemAppended) and event.item_id in settings.pinned
    ]
    on_path = [event for event, version in own_pins if path.contains(event.branch, event.depth, version)]
    pins = sorted(await snapshot_items(on_path, counts), key=lambda pin: pin.depth)
    pins_inherited = len(own_pins) < len(settings.pinned)
    pins_too_large = _size(pins) > MAX_PINNED_BYTES
    compaction = settings.compaction
    covers_others = compaction is not None and (settings.forked_from is not None or bool(compaction[1].originals))
    return Snapshot(
        version=last.version,
        chain_hash=last.chain_hash,
        incarnation=last.incarnation,
        settings=SnapshotSettings(
            instructions=settings.instructions,
            policy=settings.policy,
            summary=None if covers_others else await counted_summary(compaction),
            pins=() if pins_too_large else tuple(pins),
            needs_log=settings.inherits or pins_too_large or covers_others or pins_inherited,
        ),
        branch=newest.branch,
        depth=newest.depth,
        first=first,
        items=tuple(items),
        last_requests=newest_requests(newest.last_requests, first),
    )


def _size(items: Sequence[SnapshotItem]) -> int:
    return sum(len(msgspec.json.encode(item)) for item in items)


class _NewestItems(Struct):
    """Collects the newest items of a path.

    `complete`: no older page is needed. `above_depth`: items up to this depth are summarized or inherited. `first`: the
    snapshot has all items from this depth on, without retracted ones.
    """

    above_depth: int
    depth: int
    first: int
    branch: int = 0
    newest_first: list[ItemAppended] = []
    last_requests: dict[str, LastRequest] = {}
    complete: bool = False
    _has_head: bool = False
    _size: int = 0

    def add_older(self, page: SegmentPage) -> None:
        for event in page.appended:
            if not self.complete:
                self._add_item(event, is_retracted=event.item_id in page.retracted)
        for request in page.requests:
            self.last_requests.setdefault(request.model, LastRequest(request.version, request.sequence))

    def _add_item(self, event: ItemAppended, *, is_retracted: bool) -> None:
        if not self._has_head:
            self._has_head = True
            self.branch, self.depth, self.first = event.branch, event.depth, event.depth + 1
        size = self._size + (0 if is_retracted else len(event.item))
        if event.depth <= max(self.above_depth, self.depth - MAX_ITEMS) or size > MAX_BYTES:
            self.complete = True
            return
        self.first, self._size = event.depth, size
        if not is_retracted:
            self.newest_first.append(event)


def _newest_items(settings: ConversationSettings, path: PathSegment) -> _NewestItems:
    fork_depth = settings.forked_from.depth if settings.forked_from else 0
    summarized_depth = settings.compaction[1].depth if settings.compaction else 0
    kept = path.branches[0].last_depth  # the path may branch off before the last inherited item
    depth = fork_depth if kept is None else min(kept, fork_depth)
    return _NewestItems(above_depth=max(depth, summarized_depth), depth=depth, first=depth + 1)
