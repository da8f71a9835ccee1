"""Reads the newest items of a path from the log, backwards from its end, until there are enough."""

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
"""How many items are counted at a time. Few, because the newest items of a page may already fill the budget."""


class RecentItems(Struct, frozen=True, kw_only=True):
    """A conversation's newest items at a version, oldest first, with their tokens in `o200k_base`.

    `chain_hash` and `incarnation`: those of the snapshot that the items come from; empty if the items come from the log.
    `reaches_start`: whether no items lie before `items`, except those that the summary replaces. `pins`: the pinned items
    before `items`, oldest first. `pinned`: the ids of all pinned items, in `pins` or in `items`. `lost`: in a fork, the
    inherited items that are gone, because their conversation was deleted. `is_inherited`: whether `items`, `lost`, the
    pins or the summary may come from another conversation. `last_requests`: the last request to each model on this
    path, by the model's name (`context/last_requests.py`).
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
        """Whether these are the items at that version. The hash is compared too: a log that moved back may have other events at the same versions."""
        return (self.version, self.chain_hash) == (at.version, at.chain_hash)

    @property
    def stream_version(self) -> StreamVersion:
        return StreamVersion(self.version, self.chain_hash, self.incarnation)

    @property
    def has_copies(self) -> bool:
        """Whether some of `items` are copies of other items."""
        return bool([item for item in self.items if item.copy_of is not None])

    def suffices(self, max_tokens: int) -> bool:
        """Whether these items exceed `max_tokens` or the policy's budget, or are all that there are."""
        return self.reaches_start or sum([item.tokens for item in self.items]) > token_limit(self.policy, max_tokens)


EMPTY = RecentItems(version=0, instructions=None, policy=ContextPolicy(), items=(), reaches_start=True)


def token_limit(policy: ContextPolicy, max_tokens: int) -> int:
    """`max_tokens`, or the policy's budget if that is less."""
    return max_tokens if policy.budget is None else min(max_tokens, policy.budget)


def starts_at_first_item(items: Sequence[ContextItem]) -> bool:
    """Whether these items, oldest first, start with the path's first item."""
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
    """The newest items of a path at `version`: those that fit in `max_tokens` and in the policy's budget, and one more.

    `end`: the path's newest segment. None: the active path. Items in `without` are skipped.

    Reading stops at the items that the summary replaces. In a fork, it continues in the origin.
    """
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
    """The newest items of a fork that `start` is about to create: the origin's items up to where the fork begins.

    The pins and the summary are those that the fork inherits.
    """
    fork = start.forked_from
    assert fork is not None
    summary = await counted_summary(await inherited_summary(reader, start.summary, fork.conversation_id))
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
    """Collects a path's newest items. Items in `without` are skipped.

    Stops when the items have more than `limit` tokens, or at the first item whose depth is `above_depth` or less.
    """

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
        """The items, oldest first."""
        return tuple(reversed(self._newest_first))

    @property
    def reaches_start(self) -> bool:
        """As in RecentItems."""
        return self._reads_all or starts_at_first_item(self.items)

    @property
    def last_requests(self) -> Mapping[str, SentSequence]:
        """As in RecentItems."""
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
        """Adds a page's items. Returns whether there are enough now."""
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
