"""Assembles what a model is shown: chooses items within a token budget and renders the provider request.

The items come from the snapshot in Redis if it has the right version, else from the log, read backwards from the head until the
budget is full. They never come from the read models, and the whole conversation is never read. Commands send these contexts,
queries show them.
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
    partners_of_pins,
    recent_items_from_log,
    recent_items_of_fork,
    token_limit,
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

DEFAULT_ANSWER_TOKENS = 1_024
"""Kept free for the answer when neither the request nor the policy says how many."""

MAX_LOG_READS = 4
"""Contexts read from the log at a time: one of 128,000 tokens of short messages takes some 17 MB until it is sent."""

LOG_READ_WAIT_TIMEOUT_SECONDS = 10.0
"""How long a context waits while MAX_LOG_READS others are read from the log: as long as one of their statements may take."""


class ReplyRequest(Struct, frozen=True, kw_only=True):
    """What a reply is asked with: `parameters` as the client sent them, the new items with the ids minted for them.

    `input_unknown`: there is no question yet, this only shows what a model would see.
    """

    model: str
    parameters: Mapping[str, Any]
    input: Sequence[tuple[str, Item]] = ()
    input_unknown: bool = False


class ContextChoice(Struct, frozen=True, kw_only=True):
    """What of `recent` a model is shown, after these instructions. `context_input`: what it was chosen from, counted in `encoding`."""

    recent: RecentItems
    context_input: ContextInput
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
    """The body of the request to the provider, what is recorded of it, and the ids of the items in it."""

    body: dict[str, Any]
    shown: Shown
    sent_ids: frozenset[str] = frozenset()


SnapshotLookup = Callable[[str, str, int], Awaitable[RecentItems | None]]
"""(tenant, conversation_id, room in tokens) -> the snapshot's newest items, one more than fits in the room, of whatever version.

None when there is no usable snapshot or Redis is unavailable.
"""


class Contexts:
    """Assembles contexts. Its methods raise ContextTooLong, and psycopg.Error when the log is needed but unavailable.

    A process has one: it keeps token counts and limits concurrent reads of the log.
    """

    def __init__(
        self,
        reader: Reader,
        models: Models,
        find_snapshot: SnapshotLookup,
        log_read_wait_timeout: float = LOG_READ_WAIT_TIMEOUT_SECONDS,
    ) -> None:
        self._reader = reader
        self._models = models
        self._find_snapshot = find_snapshot
        self._log_read_wait_timeout = log_read_wait_timeout
        self._counts = ItemCounts()
        self._log_reads = asyncio.Semaphore(MAX_LOG_READS)

    async def assemble(
        self, tenant: str, conversation_id: str | None, version: int, reply_request: ReplyRequest
    ) -> Context:
        """The context of a conversation whose head is at `version`. None: a conversation that has no items yet."""
        return self.render(reply_request, await self.choose(tenant, conversation_id, version, reply_request))

    async def assemble_fork(self, start: StartConversation, reply_request: ReplyRequest) -> Context:
        """The context of a fork that `start` is about to begin."""
        room = self._models.room(reply_request.model)
        recent = await recent_items_of_fork(self._reader, start, room, self._counts)
        return self.render(reply_request, await self._choose(recent, None, reply_request))

    async def choose(
        self, tenant: str, conversation_id: str | None, version: int, reply_request: ReplyRequest
    ) -> ContextChoice:
        """What a model is shown of a conversation whose head is at `version`."""
        snapshot = None
        if conversation_id is not None:
            snapshot = await self.snapshot(tenant, conversation_id, reply_request.model)
        return await self.choose_with_snapshot(conversation_id, version, reply_request, snapshot)

    async def choose_with_snapshot(
        self, conversation_id: str | None, version: int, reply_request: ReplyRequest, snapshot: RecentItems | None
    ) -> ContextChoice:
        """As `choose`, with a snapshot that was looked up before. Reads the log if it has another version or too few items."""
        if conversation_id is None:
            return await self._choose(EMPTY, None, reply_request)
        room = self._models.room(reply_request.model)
        if snapshot is not None and snapshot.version == version and snapshot.suffices(room):
            return await self._choose(snapshot, conversation_id, reply_request)
        async with self._log_read():
            recent = await recent_items_from_log(self._reader, conversation_id, version, room, self._counts)
            return await self._choose(recent, conversation_id, reply_request)

    def render(self, reply_request: ReplyRequest, choice: ContextChoice) -> Context:
        """The provider request for what was chosen, and its record."""
        summary = choice.recent.summary
        body = render(
            self._models.renderer,
            model=reply_request.model,
            instructions=choice.instructions,
            summary=summary.text if summary else None,
            items=[sent.item for sent in choice.selection.sent],
            parameters=reply_request.parameters,
        )
        shown = Shown(
            version=choice.recent.version,
            ranges=_shown_ranges(choice.selection),
            budget=choice.budget,
            tokens=choice.tokens,
            encoding=choice.encoding,
            renderer=self._models.renderer,
            request_sha256=request_sha256(body),
            summary=summary.compaction_id if summary else None,
            left_out=on_record(choice.selection.left_out),
        )
        return Context(body=body, shown=shown, sent_ids=frozenset(sent.item_id for sent in choice.selection.sent))

    async def rerender(self, conversation_id: str, requested: Recorded) -> Rerendered:
        """The body of a recorded request, rendered again from the log alone. Raises what `rerender.rerender` raises."""
        return await rerender(self._reader, conversation_id, requested, self._counts)

    async def snapshot(self, tenant: str, conversation_id: str, model: str) -> RecentItems | None:
        """As much of the conversation's snapshot, of whatever version, as this model has room for."""
        return await self._find_snapshot(tenant, conversation_id, self._models.room(model))

    def path(self, conversation_id: str, version: int, after: str | None) -> AsyncIterator[ItemAppended]:
        """The items of the path at `version`, oldest first: all, or those after the item `after`."""
        return path(self._reader, conversation_id, version, after=after)

    async def count_items(self, items: Sequence[tuple[str, Item]], encoding: str) -> list[int]:
        """The tokens that each (id, item) adds to a request."""
        return await self._counts.of(items, encoding)

    def unsendable(self, items: Sequence[Item]) -> dict[int, str]:
        """Which of `items` are not sent to the provider, by index, and why."""
        return unsendable(self._models.renderer, items)

    @asynccontextmanager
    async def _log_read(self) -> AsyncIterator[None]:
        """Waits until fewer than MAX_LOG_READS run. Raises psycopg.OperationalError when that takes too long."""
        try:
            async with asyncio.timeout(self._log_read_wait_timeout):
                await self._log_reads.acquire()
        except TimeoutError:
            message = f"{MAX_LOG_READS} other contexts were read from the log for {self._log_read_wait_timeout} s"
            raise psycopg.OperationalError(message) from None
        try:
            yield
        finally:
            self._log_reads.release()

    async def _choose(
        self, recent: RecentItems, conversation_id: str | None, reply_request: ReplyRequest
    ) -> ContextChoice:
        budget = self._budget(recent.policy, reply_request)
        encoding = self._models.encoding(reply_request.model)
        requested = reply_request.parameters.get("instructions")
        instructions = tuple(text for text in (recent.instructions, requested) if text)
        base_tokens, summary_tokens = await self._count_base(recent, instructions, reply_request.parameters, encoding)
        partners = (
            await partners_of_pins(self._reader, conversation_id, recent, self._counts) if conversation_id else ()
        )
        pins = sorted((*recent.pins, *partners), key=lambda item: item.depth)
        input_tokens = await self._counts.of(reply_request.input, encoding)
        context_input = ContextInput(
            path=await self._count_again(recent.items, recent.pinned, encoding),
            pins=await self._count_again(pins, recent.pinned, encoding),
            input=[
                ContextItem(item_id=item_id, item=item, tokens=tokens)
                for (item_id, item), tokens in zip(reply_request.input, input_tokens, strict=True)
            ],
            base_tokens=base_tokens + summary_tokens,
            reaches_start=recent.reaches_start,
            summarized=_summarized(recent),
            input_unknown=reply_request.input_unknown,
        )
        selection = select(context_input, budget, self.unsendable)
        if reply_request.parameters.get("truncation") == "disabled":
            if any(left_out.reason == BUDGET for left_out in selection.left_out):
                everything = (*context_input.pins, *context_input.path, *context_input.input)
                raise ContextTooLong(context_input.base_tokens + sum(item.tokens for item in everything), budget)
        return ContextChoice(
            recent=recent,
            context_input=context_input,
            selection=selection,
            instructions=instructions,
            budget=budget,
            encoding=encoding,
            summary_tokens=summary_tokens,
        )

    def _budget(self, policy: ContextPolicy, reply_request: ReplyRequest) -> int:
        """Tokens that may be sent: the window less what the answer may take, or the policy's budget if that is less."""
        window = self._models.window(reply_request.model)
        requested = reply_request.parameters.get("max_output_tokens")
        answer = requested or policy.reserve or min(DEFAULT_ANSWER_TOKENS, window // 2)
        return token_limit(policy, max(0, self._models.room(reply_request.model, reserved=answer)))

    async def _count_base(
        self, recent: RecentItems, instructions: Sequence[str], parameters: Mapping[str, Any], encoding: str
    ) -> tuple[int, int]:
        """The tokens of what is sent whatever is chosen, without the summary; and those of the summary."""
        texts = [*instructions, counted_parameters(parameters)]
        summary = recent.summary
        if summary is not None and encoding != DEFAULT_ENCODING:
            texts.append(summary.text)
        counts = await count_off_loop(texts, encoding)
        summary_tokens = 0
        if summary is not None:
            summary_tokens = SUMMARY_TOKENS + (summary.tokens if encoding == DEFAULT_ENCODING else counts.pop())
        return sum(counts) + PER_MESSAGE_TOKENS * bool(instructions), summary_tokens

    async def _count_again(
        self, items: Sequence[ContextItem], pinned: frozenset[str], encoding: str
    ) -> Sequence[ContextItem]:
        """The items counted in this encoding, with the pinned ones marked. They come counted in DEFAULT_ENCODING."""
        if encoding != DEFAULT_ENCODING:
            counts = await self._counts.of([(item.item_id, item.item) for item in items], encoding)
            items = [replace(item, tokens=tokens) for item, tokens in zip(items, counts, strict=True)]
        return [replace(item, pinned=item.item_id in pinned) for item in items] if pinned else items


def _summarized(recent: RecentItems) -> LeftOut | None:
    if (summary := recent.summary) is None:
        return None
    return LeftOut(reason=SUMMARIZED, first=summary.first, last=summary.last, count=summary.count)


def _shown_ranges(selection: Selection) -> tuple[ShownRange, ...]:
    """One range for each item of older turns and one for the window. Unsendable items count as items of the window, without tokens."""
    sent_ids = {item.item_id for item in selection.sent}
    ranges = [_shown_range([pin], sent_ids) for pin in selection.pins]
    return tuple([*ranges, _shown_range(selection.window, sent_ids)] if selection.window else ranges)


def _shown_range(items: Sequence[ContextItem], sent_ids: set[str]) -> ShownRange:
    tokens = sum(item.tokens for item in items if item.item_id in sent_ids)
    return ShownRange(first=items[0].item_id, last=items[-1].item_id, count=len(items), tokens=tokens)
