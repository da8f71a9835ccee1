"""Reads the newest items of a path from the log, backwards, until there are enough."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from context.branch_paths import active_segment
from context.conversation_settings import Reader, Summary, counted_summary, inherited_summary, settings_at
from context.item_counts import ItemCounts
from context.last_requests import MAX_LAST_REQUESTS, comparable_requests
from context.path_backwards import PAGE_EVENTS, PathPage, path_backwards
from context.pinned_items import items_on_path
from context.selection import ContextItem
from context.stored_items import counted_items
from domain.commands import StartConversation
from domain.events import ContextPolicy, LeftOut, SentSequence
from domain.paths import PathSegment, origin_of
from infrastructure.event_log.incarnation import StreamVersion

COUNT_BATCH_ITEMS = 32
"""A small number, because the newest items of a page may already fill the budget."""


class RecentItems(Struct, frozen=True, kw_only=True):
    """A conversation's newest items at a version, oldest first, with their tokens in `o200k_base`.

    `chain_hash`, `incarnation`: the values of the snapshot, or empty if the items come from the log. `reaches_start`:
    whether `items` begin at the path's start or after the summarized items. `pins`: the pinned items before `items`.
    `pinned`: the ids of the pinned items in `items` and `pins`. `lost`: inherited items whose conversation was deleted.
    `is_inherited`: whether anything here may come from another conversation. `last_requests`: the last
    requests on this path, by the model's name.
    """

    version: int
    chain_hash: str = ""
    incarnation: str = ""
    instructions: str | None
    policy: ContextPolicy
    items: tuple[ContextItem, ...]
    reaches_start: bool
    pins: tuple[ContextItem, ...] = ()
    pinned: frozenset[str] = frozenset()
    summary: Summary | None = None
    lost: tuple[LeftOut, ...] = ()
    is_inherited: bool = False
    last_requests: Mapping[str, SentSequence] = {}

    def is_at(self, at: StreamVersion) -> bool:
        """Compares hashes too, because after a restore, the log may have other events at the same versions."""
        return (self.version, self.chain_hash) == (at.version, at.chain_hash)

    @property
    def stream_version(self) -> StreamVersion:
        return StreamVersion(self.version, self.chain_hash, self.incarnation)

    @property
    def has_copies(self) -> bool:
        return bool([item for item in self.items if item.copy_of is not None])

    def suffices(self, max_tokens: int) -> bool:
        return self.reaches_start or sum([item.tokens for item in self.items]) > token_limit(self.policy, max_tokens)


EMPTY = RecentItems(version=0, instructions=None, policy=ContextPolicy(), items=(), reaches_start=True)


def token_limit(policy: ContextPolicy, max_tokens: int) -> int:
    return max_tokens if policy.budget is None else min(max_tokens, policy.budget)


def starts_at_first_item(items: Sequence[ContextItem]) -> bool:
    return bool(items) and items[0].depth == 1


async def recent_items_from_log(
    reader: Reader,
    conversation_id: str,
    version: int,
    max_tokens: int,
    counts: ItemCounts | None = None,
    *,
    without: Collection[str] = (),
    end: PathSegment | None = None,
) -> RecentItems:
    """`end`: the path's newest segment; None: the active path. Reading stops at summarized items."""
    counts = counts or ItemCounts()
    end = end or await active_segment(reader, conversation_id, version)
    settings, newest_page = await asyncio.gather(
        settings_at(reader, conversation_id, version, end.branches),
        reader.conversation_backwards(conversation_id, until=version, limit=PAGE_EVENTS),
    )
    summary = await counted_summary(settings.compaction)
    backwards = _BackwardRead(
        token_limit(settings.policy, max_tokens), summary.depth if summary else 0, counts, without
    )
    await backwards.read(path_backwards(reader, end, first_page=newest_page))
    items, reaches_start = backwards.items, backwards.reaches_start
    ids = {item.item_id for item in items}
    older_pins = [item_id for item_id in settings.pinned if item_id not in ids and item_id not in without]
    pins = await items_on_path(reader, end, older_pins, counts)
    return RecentItems(
        version=version,
        instructions=settings.instructions,
        policy=settings.policy,
        items=items,
        reaches_start=reaches_start,
        pins=pins,
        pinned=frozenset(settings.pinned) & (ids | {pin.item_id for pin in pins}),
        summary=summary,
        lost=tuple(reversed(backwards.lost)),
        is_inherited=backwards.is_inherited or settings.inherits,
        last_requests=backwards.last_requests,
    )


async def recent_items_of_fork(
    reader: Reader, start: StartConversation, max_tokens: int, counts: ItemCounts
) -> RecentItems:
    """The items of a fork that `start` is about to create."""
    fork = start.forked_from
    assert fork is not None
    summary = await counted_summary(await inherited_summary(reader, start.summary, origin_of(fork)))
    backwards = _BackwardRead(token_limit(start.context_policy, max_tokens), summary.depth if summary else 0, counts)
    await backwards.read(path_backwards(reader, origin_of(fork), is_past=True))
    ids = {item.item_id for item in backwards.items}
    older_pins = [item_id for item_id in start.pinned if item_id not in ids]
    pins = await items_on_path(reader, origin_of(fork), older_pins, counts)
    return RecentItems(
        version=1,
        instructions=start.instructions,
        policy=start.context_policy,
        items=backwards.items,
        reaches_start=backwards.reaches_start,
        pins=pins,
        pinned=frozenset(start.pinned) & (ids | {pin.item_id for pin in pins}),
        summary=summary,
        lost=tuple(reversed(backwards.lost)),
        is_inherited=True,
        last_requests=backwards.last_requests,
    )


class _BackwardRead:
    def __init__(self, limit: int, above_depth: int, counts: ItemCounts, without: Collection[str] = ()) -> None:
        self._without = without
        self.lost: list[LeftOut] = []
        self.is_inherited = False
        self._newest_first: list[ContextItem] = []
        self._requests: dict[str, SentSequence] = {}
        self._reads_all = False
        self._limit = limit
        self._above_depth = above_depth
        self._counts = counts
        self._tokens = 0

    @property
    def items(self) -> tuple[ContextItem, ...]:
        return tuple(reversed(self._newest_first))

    @property
    def reaches_start(self) -> bool:
        return self._reads_all or starts_at_first_item(self.items)

    @property
    def last_requests(self) -> Mapping[str, SentSequence]:
        return comparable_requests(
            self._requests, self.items, reaches_start=self.reaches_start, summary_depth=self._above_depth
        )

    async def read(self, pages: AsyncIterator[PathPage]) -> None:
        async for page in pages:
            for model, sequence in page.requests:
                if len(self._requests) < MAX_LAST_REQUESTS:
                    self._requests.setdefault(model, sequence)
            if page.lost is not None:
                self.lost.append(page.lost)
                self.is_inherited = True
            elif await self._add(page):
                return
        self._reads_all = True

    async def _add(self, page: PathPage) -> bool:
        """Returns whether there are enough items now."""
        newer = list(takewhile(lambda event: event.depth > self._above_depth, page.items))
        appended = [event for event in newer if event.item_id not in self._without]
        for start in range(0, len(appended), COUNT_BATCH_ITEMS):
            for item in await counted_items(appended[start : start + COUNT_BATCH_ITEMS], self._counts):
                before_gap = item.item_id in page.before_gap
                self._newest_first.append(replace(item, before_gap=True) if before_gap else item)
                self.is_inherited = page.is_inherited
                self._tokens += item.tokens
                if self._tokens > self._limit:
                    return True
        self._reads_all = len(newer) < len(page.items)
        return self._reads_all
