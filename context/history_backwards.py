"""The end of a conversation, read from the log backwards from the head until there is enough: never all of it.

`commands/` and `queries/` get it from `context/assembly.py`; `projections/` makes the same of its snapshots.
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from context.conversation_settings import Reader, Summary, settings_at, summary_of, unretracted
from context.encodings import DEFAULT_ENCODING
from context.item_counts import ItemCounts
from context.rendering.orphans import call_key, is_output, pairs
from context.selection import ContextItem
from domain.commands import StartConversation
from domain.events import (
    ContextPolicy,
    ConversationStarted,
    ItemAppended,
    ItemRetracted,
)
from domain.items import from_stored
from infrastructure.event_log.recorded import Recorded

PAGE = 200
COUNTED_AT_ONCE = 32


class RecentItems(Struct, frozen=True, kw_only=True):
    """The end of a conversation at a version: its newest items, oldest first.

    `whole`: nothing lies before them but what the summary stands for. `pins`: the pinned items before them, oldest first;
    `pinned`: the ids of all that are, which the items themselves do not say. Tokens are as `o200k_base` counts what is sent.
    """

    version: int
    instructions: str | None
    policy: ContextPolicy
    items: tuple[ContextItem, ...]
    reaches_start: bool
    pins: tuple[ContextItem, ...] = ()
    pinned: frozenset[str] = frozenset()
    summary: Summary | None = None

    def suffices(self, room: int) -> bool:
        """Whether no more of the conversation is needed to fill `room` tokens, or what the policy gives of them."""
        return self.reaches_start or sum(each.tokens for each in self.items) > needed(self.policy, room)


EMPTY = RecentItems(version=0, instructions=None, policy=ContextPolicy(), items=(), reaches_start=True)


def needed(policy: ContextPolicy, room: int) -> int:
    """How many tokens of a conversation are enough where a model has room for so many."""
    return room if policy.budget is None else min(room, policy.budget)


def begins(items: Sequence[ContextItem]) -> bool:
    """Whether these items of a path, oldest first, begin with its very first."""
    return bool(items) and items[0].depth == 1


async def recent_items_from_log(
    reader: Reader, conversation_id: str, version: int, room: int, counts: ItemCounts | None = None
) -> RecentItems:
    """The tail, read backwards from `version` until there is more than fits, or there is no more: in a fork on into its origin."""
    counts = counts or ItemCounts()
    stands, newest = await asyncio.gather(
        settings_at(reader, conversation_id, version),
        reader.conversation_backwards(conversation_id, until=version, limit=PAGE),
    )
    summary = await summary_of(stands.compacted)
    backwards = _Backwards(needed(stands.policy, room), summary.depth if summary else 0, counts)
    await backwards.read(reader, conversation_id, version, newest=newest)
    items = tuple(reversed(backwards.newest_first))
    held = {each.item_id for each in items}
    older = await _pins(reader, conversation_id, version, [each for each in stands.pinned if each not in held], counts)
    return RecentItems(
        version=version,
        instructions=stands.instructions,
        policy=stands.policy,
        items=items,
        reaches_start=backwards.reaches_start or begins(items),
        pins=older,
        pinned=frozenset(stands.pinned) & (held | {each.item_id for each in older}),
        summary=summary,
    )


async def recent_items_of_fork(reader: Reader, start: StartConversation, room: int, counts: ItemCounts) -> RecentItems:
    """The tail of a fork that has only just begun with `start`: what lies before it in its origin."""
    fork = start.forked_from
    assert fork is not None
    backwards = _Backwards(needed(start.context_policy, room), 0, counts)
    await backwards.read(reader, fork.conversation_id, fork.version, fork.depth)
    items = tuple(reversed(backwards.newest_first))
    return RecentItems(
        version=1,
        instructions=start.instructions,
        policy=start.context_policy,
        items=items,
        reaches_start=backwards.reaches_start or begins(items),
    )


class _Backwards:
    """The newest items of a path while they are read: more than `need` tokens of them, or all below the depth `above`."""

    def __init__(self, need: int, above: int, counts: ItemCounts) -> None:
        self.newest_first: list[ContextItem] = []
        self.reaches_start = False
        self._need = need
        self._above = above
        self._counts = counts
        self._tokens = 0
        self._retracted: set[str] = set()

    async def read(
        self,
        reader: Reader,
        conversation_id: str,
        until: int,
        deepest: int | None = None,
        newest: Sequence[Recorded] | None = None,
    ) -> None:
        """Reads on from `newest`, the page that ends at `until`, where that is there already."""
        while until > 0:
            page = newest or await reader.conversation_backwards(conversation_id, until=until, limit=PAGE)
            newest = None
            if not page:
                break
            if await self._take(page, deepest):
                return
            until = page[-1].version - 1
            first = page[-1].event
            if isinstance(first, ConversationStarted) and (fork := first.forked_from) is not None:
                conversation_id, until = fork.conversation_id, fork.version
                deepest = fork.depth if deepest is None else min(deepest, fork.depth)
                if deepest <= self._above:
                    break
        self.reaches_start = True

    async def _take(self, page: Sequence[Recorded], deepest: int | None) -> bool:
        """Adds what a page has; says whether that is the end of it."""
        appended: list[ItemAppended] = []
        at_summary = False
        for recorded in page:
            match recorded.event:
                case ItemRetracted():
                    self._retracted.add(recorded.event.item_id)
                case ItemAppended(depth=depth) if deepest is None or depth <= deepest:
                    if depth <= self._above:
                        at_summary = True
                        break
                    if recorded.event.item_id not in self._retracted:
                        appended.append(recorded.event)
                case _:
                    pass
        for begin in range(0, len(appended), COUNTED_AT_ONCE):
            for item in await counted(appended[begin : begin + COUNTED_AT_ONCE], self._counts):
                self.newest_first.append(item)
                self._tokens += item.tokens
                if self._tokens > self._need:
                    return True
        self.reaches_start = at_summary
        return at_summary


async def counted(appended: Sequence[ItemAppended], counts: ItemCounts) -> list[ContextItem]:
    """The items of these events with their tokens."""
    items = [from_stored(event.item) for event in appended]
    ids = [event.item_id for event in appended]
    sizes = await counts.of(list(zip(ids, items, strict=True)), DEFAULT_ENCODING)
    return [
        ContextItem(item_id=event.item_id, item=item, tokens=size, depth=event.depth)
        for event, item, size in zip(appended, items, sizes, strict=True)
    ]


async def _pins(
    reader: Reader, conversation_id: str, version: int, item_ids: Sequence[str], counts: ItemCounts
) -> tuple[ContextItem, ...]:
    found = await unretracted(reader, conversation_id, version, item_ids)
    appended = [recorded.event for recorded in found.values() if isinstance(recorded.event, ItemAppended)]
    return tuple(sorted(await counted(appended, counts), key=lambda item: item.depth))


async def other_halves(
    reader: Reader, conversation_id: str, recent: RecentItems, counts: ItemCounts
) -> tuple[ContextItem, ...]:
    """The calls and outputs that pinned items belong to, where they lie before the tail and within PAGE events of them."""
    if not recent.pinned:
        return ()
    known = [*recent.pins, *recent.items]
    together = {index for pair in pairs([each.item for each in known]) for index in pair}
    alone = [
        each
        for index, each in enumerate(known)
        if each.item_id in recent.pinned and index not in together and call_key(each.item) is not None
    ]
    if not alone:
        return ()
    rows = await unretracted(reader, conversation_id, recent.version, [each.item_id for each in alone])
    found: list[str] = []
    for each in alone:
        if (row := rows.get(each.item_id)) is None:
            continue
        if is_output(each.item):
            page = await reader.conversation_backwards(conversation_id, until=row.version - 1, limit=PAGE)
        else:
            page = await reader.conversation(conversation_id, after=row.version, until=recent.version, limit=PAGE)
        for recorded in page:
            if isinstance(event := recorded.event, ItemAppended):
                item = from_stored(event.item)
                if call_key(item) == call_key(each.item):
                    if is_output(item) != is_output(each.item):
                        found.append(event.item_id)
                    break
    held = {each.item_id for each in known}
    return await _pins(
        reader, conversation_id, recent.version, [ident for ident in dict.fromkeys(found) if ident not in held], counts
    )
