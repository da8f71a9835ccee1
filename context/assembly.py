"""A conversation's context: what of it a model is shown within a budget, and the request it is sent for that.

It comes from a snapshot where there is one of the right version, else from the log, read backwards from the head until
the budget is full: never from the read models, never by folding the whole conversation. Commands ask with it, queries show it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from context.conversation_settings import SUMMARY_TOKENS, Reader
from context.encodings import DEFAULT_ENCODING
from context.history_backwards import (
    EMPTY,
    RecentItems,
    needed,
    other_halves,
    recent_items_from_log,
    recent_items_of_fork,
)
from context.history_forwards import path
from context.item_counts import ItemCounts
from context.models import Models
from context.rendering import PER_MESSAGE_TOKENS, counted_parameters, render, request_sha256, unsendable
from context.rerender import Rerendered, rerender
from context.selection import BUDGET, SUMMARIZED, ContextInput, ContextItem, Selection, on_record, select
from context.tokens import count_off_loop
from domain.commands import StartConversation
from domain.errors import ContextTooLong
from domain.events import ContextPolicy, ItemAppended, LeftOut, Shown, ShownRange
from domain.items import Item
from infrastructure.event_log.recorded import Recorded

DEFAULT_ANSWER = 1_024
"""Tokens kept free for the answer where neither the request nor the policy says how many."""

FROM_LOG_AT_ONCE = 4
"""Contexts that are read from the log at a time: 128,000 tokens of short messages take some 17 MB until they are sent."""

TURN_SECONDS = 10.0
"""How long one waits for its turn to be read: as long as a statement of another's may take."""


class ReplyRequest(Struct, frozen=True, kw_only=True):
    """What a reply is asked with: `parameters` as the request had them, the new items with their minted ids.

    `open`: what will be asked is not known yet.
    """

    model: str
    parameters: Mapping[str, Any]
    input: Sequence[tuple[str, Item]] = ()
    open: bool = False


class ContextChoice(Struct, frozen=True, kw_only=True):
    """What of `tail` a model is shown, after these instructions. `known` is what there was to choose from, counted by `encoding`."""

    recent: RecentItems
    known: ContextInput
    selection: Selection
    instructions: tuple[str, ...]
    budget: int
    encoding: str
    summary_tokens: int

    @property
    def tokens(self) -> int:
        """Of all that is sent."""
        return self.selection.tokens


class Context(Struct, frozen=True, kw_only=True):
    """What a model is sent: the request's body, and what goes on record. `sent`: the ids of the items in it."""

    body: dict[str, Any]
    shown: Shown
    sent: frozenset[str] = frozenset()


Snapshots = Callable[[str, str, int], Awaitable[RecentItems | None]]
"""(tenant, conversation_id, room in tokens) -> the snapshot there is, of whatever version, or as much of its end as fits and one
item more; None also when snapshots are away."""


class Contexts:
    """Assembles contexts. Raises ContextTooLong, and psycopg.Error when the log is needed and away. One for a process."""

    def __init__(self, reader: Reader, models: Models, snapshots: Snapshots) -> None:
        self._reader = reader
        self._models = models
        self._snapshots = snapshots
        self._counts = ItemCounts()
        self._from_log = asyncio.Semaphore(FROM_LOG_AT_ONCE)

    async def assemble(self, tenant: str, conversation_id: str | None, version: int, asked: ReplyRequest) -> Context:
        """The context of a conversation at `version`, its head; None has nothing in it yet."""
        return self.context(asked, await self.chosen(tenant, conversation_id, version, asked))

    async def chosen(
        self, tenant: str, conversation_id: str | None, version: int, asked: ReplyRequest
    ) -> ContextChoice:
        """What of a conversation at `version`, its head, is shown."""
        snapshot = None if conversation_id is None else await self.snapshot(tenant, conversation_id, asked.model)
        return await self.choose(conversation_id, version, asked, snapshot)

    def context(self, asked: ReplyRequest, chosen: ContextChoice) -> Context:
        """The request for what was chosen, and its record."""
        summary = chosen.recent.summary
        body = render(
            self._models.renderer,
            model=asked.model,
            instructions=chosen.instructions,
            summary=summary.text if summary else None,
            items=[each.item for each in chosen.selection.sent],
            parameters=asked.parameters,
        )
        shown = Shown(
            version=chosen.recent.version,
            ranges=_ranges(chosen.selection),
            budget=chosen.budget,
            tokens=chosen.tokens,
            encoding=chosen.encoding,
            renderer=self._models.renderer,
            request_sha256=request_sha256(body),
            summary=summary.compaction_id if summary else None,
            left_out=on_record(chosen.selection.left_out),
        )
        return Context(body=body, shown=shown, sent=frozenset(each.item_id for each in chosen.selection.sent))

    async def of_fork(self, start: StartConversation, asked: ReplyRequest) -> Context:
        """The context that a fork has when it has just begun."""
        recent = await recent_items_of_fork(self._reader, start, self._room(asked.model), self._counts)
        return self.context(asked, await self._choose_from(recent, None, asked))

    async def choose(
        self, conversation_id: str | None, version: int, asked: ReplyRequest, snapshot: RecentItems | None
    ) -> ContextChoice:
        """What of a conversation at `version` is shown. `snapshot`: the one there is, of whatever version.

        It is read from the log where that does not have more than the room in tokens, or than the policy gives of it, or all.
        """
        if conversation_id is None:
            return await self._choose_from(EMPTY, None, asked)
        room = self._room(asked.model)
        if snapshot is not None and snapshot.version == version and snapshot.suffices(room):
            return await self._choose_from(snapshot, conversation_id, asked)
        async with self._turn():
            recent = await recent_items_from_log(self._reader, conversation_id, version, room, self._counts)
            return await self._choose_from(recent, conversation_id, asked)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the few that are read from the log at a time. Raises psycopg.OperationalError when none of them gets done."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._from_log.acquire()
        except TimeoutError:
            raise psycopg.OperationalError(f"no turn within {TURN_SECONDS} s") from None
        try:
            yield
        finally:
            self._from_log.release()

    async def _choose_from(
        self, recent: RecentItems, conversation_id: str | None, asked: ReplyRequest
    ) -> ContextChoice:
        budget = self._budget(recent.policy, asked)
        encoding = self._models.encoding(asked.model)
        given = asked.parameters.get("instructions")
        instructions = tuple(text for text in (recent.instructions, given) if text)
        always, summary_tokens = await self._always(recent, instructions, asked.parameters, encoding)
        halves = await other_halves(self._reader, conversation_id, recent, self._counts) if conversation_id else ()
        pins = sorted((*recent.pins, *halves), key=lambda item: item.depth)
        sizes = await self._counts.of(asked.input, encoding)
        known = ContextInput(
            path=await self._candidates(recent.items, recent.pinned, encoding),
            pins=await self._candidates(pins, recent.pinned, encoding),
            input=[
                ContextItem(item_id=ident, item=item, tokens=size)
                for (ident, item), size in zip(asked.input, sizes, strict=True)
            ],
            always=always + summary_tokens,
            reaches_start=recent.reaches_start,
            summarized=_summarized(recent),
            open=asked.open,
        )
        selection = select(known, budget, self.unsendable)
        if asked.parameters.get("truncation") == "disabled":
            if any(each.reason == BUDGET for each in selection.left_out):
                everything = sum(each.tokens for each in (*known.pins, *known.path, *known.input))
                raise ContextTooLong(known.always + everything, budget)
        return ContextChoice(
            recent=recent,
            known=known,
            selection=selection,
            instructions=instructions,
            budget=budget,
            encoding=encoding,
            summary_tokens=summary_tokens,
        )

    async def rendered(self, conversation_id: str, requested: Recorded) -> Rerendered:
        """The body of an old request once more, from the log alone. Raises what `rendered_again` raises."""
        return await rerender(self._reader, conversation_id, requested, self._counts)

    async def snapshot(self, tenant: str, conversation_id: str, model: str) -> RecentItems | None:
        """As much of the snapshot there is, of whatever version, as this model has room for."""
        return await self._snapshots(tenant, conversation_id, self._room(model))

    def path(self, conversation_id: str, version: int, after: str | None) -> AsyncIterator[ItemAppended]:
        """The items of the path at `version`, oldest first: all, or those after the item `after`."""
        return path(self._reader, conversation_id, version, after=after)

    async def counts(self, items: Sequence[tuple[str, Item]], encoding: str) -> list[int]:
        """What each (id, item) adds to a request."""
        return await self._counts.of(items, encoding)

    def unsendable(self, items: Sequence[Item]) -> dict[int, str]:
        """Which of `items` the provider is not sent, by index, and why."""
        return unsendable(self._models.renderer, items)

    def _room(self, model: str) -> int:
        return self._models.room(model)

    def _budget(self, policy: ContextPolicy, asked: ReplyRequest) -> int:
        """Tokens that may be sent: the window less what the answer may take, or the policy's budget if that is less."""
        window = self._models.window(asked.model)
        answer = asked.parameters.get("max_output_tokens") or policy.reserve or min(DEFAULT_ANSWER, window // 2)
        return needed(policy, max(0, self._models.room(asked.model, reserved=answer)))

    async def _always(
        self, recent: RecentItems, instructions: Sequence[str], parameters: Mapping[str, Any], encoding: str
    ) -> tuple[int, int]:
        """The tokens of what is sent whatever is chosen, and those of the summary."""
        texts = [*instructions, counted_parameters(parameters)]
        summary = recent.summary
        if summary is not None and encoding != DEFAULT_ENCODING:
            texts.append(summary.text)
        counts = await count_off_loop(texts, encoding)
        summarized = 0
        if summary is not None:
            summarized = SUMMARY_TOKENS + (summary.tokens if encoding == DEFAULT_ENCODING else counts.pop())
        return sum(counts) + PER_MESSAGE_TOKENS * bool(instructions), summarized

    async def _candidates(
        self, items: Sequence[ContextItem], pinned: frozenset[str], encoding: str
    ) -> Sequence[ContextItem]:
        """These items of a tail, with their pins, and counted by this encoding."""
        if encoding != DEFAULT_ENCODING:
            sizes = await self._counts.of([(each.item_id, each.item) for each in items], encoding)
            items = [replace(each, tokens=size) for each, size in zip(items, sizes, strict=True)]
        return [replace(each, pinned=each.item_id in pinned) for each in items] if pinned else items


def _summarized(recent: RecentItems) -> LeftOut | None:
    if (summary := recent.summary) is None:
        return None
    return LeftOut(reason=SUMMARIZED, first=summary.first, last=summary.last, count=summary.count)


def _ranges(selection: Selection) -> tuple[ShownRange, ...]:
    """Each item of older turns is a range of its own; what of the window is not sent is counted with it, and named beside."""
    sent = {each.item_id for each in selection.sent}
    ranges = [_range([each], sent) for each in selection.pins]
    return tuple([*ranges, _range(selection.window, sent)] if selection.window else ranges)


def _range(items: Sequence[ContextItem], sent: set[str]) -> ShownRange:
    tokens = sum(each.tokens for each in items if each.item_id in sent)
    return ShownRange(first=items[0].item_id, last=items[-1].item_id, count=len(items), tokens=tokens)
