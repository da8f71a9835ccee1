"""Assembles what a model is shown.

The items come from the snapshot in Redis, or from the log. They never come from the views in MongoDB.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from msgspec import Struct

from context.branch_paths import active_segment
from context.choice import ContextChoice, ContextChooser, ReplyRequest
from context.conversation_settings import Reader, family_of
from context.deleted_content import deleted_items
from context.history_backwards import EMPTY, RecentItems, recent_items_from_log, recent_items_of_fork
from context.history_forwards import path
from context.inlined_contents import BodyWithContents, body_sha256, with_contents
from context.item_counts import ItemCounts
from context.item_tokens import counted_parameters
from context.message_counts import MessageCounts
from context.models import Models
from context.recorded_selection import recorded_left_out, shown_ranges
from context.rendering import needed_abilities, render, render_transcript, unsendable
from context.rerender import Rerendered, rerender
from context.selection import ContextItem
from context.sent_sequence import sent_sequence
from context.tokens import count_off_loop
from context.transcripts.known_messages import KnownMessages, SentMessages
from domain.commands import StartConversation
from domain.events import ItemAppended, Shown
from domain.items import Item
from domain.paths import PathSegment, origin_of
from infrastructure.event_log.incarnation import LogMoved, StreamVersion
from infrastructure.event_log.recorded import Recorded

MAX_LOG_READS = 4
"""At most this many contexts are read from the log at the same time. Contexts of new forks, and requests that are
rendered again, do not count.

A context of 128,000 tokens takes about 17 MB.
"""

LOG_READ_WAIT_TIMEOUT_SECONDS = 10.0
"""The same as the time limit of one SQL statement."""


MAX_FAMILIES = 10_000
"""A process remembers the family of this many conversations. The families take about 2 MB."""


class Context(Struct, frozen=True, kw_only=True):
    """A request to a provider, and its record.

    `shown`: what is recorded of the request. `sent_ids`: the ids of the items in `body`; empty for a transcript.
    """

    body: dict[str, Any] | BodyWithContents
    shown: Shown
    sent_ids: frozenset[str] = frozenset()

    @property
    def fields(self) -> dict[str, Any]:
        """The body, with references in place of the data of images and files."""
        return self.body.fields if isinstance(self.body, BodyWithContents) else self.body


SnapshotLookup = Callable[[str, str, int], Awaitable[RecentItems | None]]
"""(tenant, conversation_id, max_tokens) -> the snapshot's newest items that fit in max_tokens, and one more item.

The snapshot may have any version. None if there is no usable snapshot.
"""


class SharedContexts:
    """What all contexts of a process share."""

    def __init__(
        self,
        models: Models,
        find_snapshot: SnapshotLookup,
        log_read_wait_timeout: float = LOG_READ_WAIT_TIMEOUT_SECONDS,
    ) -> None:
        self.models = models
        self.find_snapshot = find_snapshot
        self.counts = ItemCounts()
        self.message_counts = MessageCounts()
        self.known_messages = KnownMessages()
        self.families: dict[str, str] = {}
        self._log_read_wait_timeout = log_read_wait_timeout
        self._log_reads = asyncio.Semaphore(MAX_LOG_READS)

    def of(self, reader: Reader) -> "Contexts":
        return Contexts(reader, self)

    @asynccontextmanager
    async def log_read(self) -> AsyncIterator[None]:
        """Waits for its turn to read the log. Raises psycopg.OperationalError if the wait takes too long."""
        try:
            async with asyncio.timeout(self._log_read_wait_timeout):
                await self._log_reads.acquire()
        except TimeoutError:
            message = (
                f"waited {self._log_read_wait_timeout} s for {MAX_LOG_READS} other contexts that are read from the log"
            )
            raise psycopg.OperationalError(message) from None
        try:
            yield
        finally:
            self._log_reads.release()


class Contexts:
    """Assembles contexts.

    The methods raise ContextTooLong, ContentsTooLarge, ContentGone and LogMoved, and psycopg.Error when the log is needed but unavailable.
    """

    def __init__(self, reader: Reader, shared: SharedContexts) -> None:
        self._reader = reader
        self._shared = shared
        self._models = shared.models
        self._counts = shared.counts
        self._chooser = ContextChooser(reader, shared.models, shared.counts)

    async def assemble(
        self, conversation_id: str | None, at: StreamVersion | None, reply_request: ReplyRequest
    ) -> Context:
        return await self.render(reply_request, await self.choose(conversation_id, at, reply_request))

    async def assemble_path(self, end: PathSegment, at: StreamVersion, reply_request: ReplyRequest) -> Context:
        return await self.render(reply_request, await self._choose_from_log(end, at, reply_request))

    async def assemble_fork(self, start: StartConversation, at: StreamVersion, reply_request: ReplyRequest) -> Context:
        """The context of a fork that `start` is about to create. `at`: a version of the origin that was read before.

        Raises LogMoved if the log may have moved back since `at` was read.
        """
        max_tokens = self._models.max_request_tokens(reply_request.model)
        recent = await recent_items_of_fork(self._reader, start, max_tokens, self._counts)
        fork = start.forked_from
        assert fork is not None
        context = await self.render(reply_request, await self._chooser.choose(recent, origin_of(fork), reply_request))
        await self._check_log(fork.conversation_id, at)
        return context

    async def choose(
        self, conversation_id: str | None, at: StreamVersion | None, reply_request: ReplyRequest
    ) -> ContextChoice:
        snapshot = None
        if conversation_id is not None:
            snapshot = await self.snapshot(conversation_id, reply_request.model)
        return await self.choose_with_snapshot(conversation_id, at, reply_request, snapshot)

    async def choose_with_snapshot(
        self,
        conversation_id: str | None,
        at: StreamVersion | None,
        reply_request: ReplyRequest,
        snapshot: RecentItems | None,
    ) -> ContextChoice:
        """As `choose`, with a snapshot that was looked up before.

        Raises LogMoved if the log may have moved back since `at` was read.
        """
        if conversation_id is None or at is None:
            return await self._chooser.choose(EMPTY, None, reply_request)
        max_tokens = self._models.max_request_tokens(reply_request.model)
        if snapshot is not None and not reply_request.without and snapshot.is_at(at) and snapshot.suffices(max_tokens):
            pinned_on = await active_segment(self._reader, conversation_id, at.version) if snapshot.pinned else None
            return await self._chooser.choose(snapshot, pinned_on, reply_request)
        end = await active_segment(self._reader, conversation_id, at.version)
        return await self._choose_from_log(end, at, reply_request)

    async def _choose_from_log(self, end: PathSegment, at: StreamVersion, reply_request: ReplyRequest) -> ContextChoice:
        conversation_id, max_tokens = end.conversation_id, self._models.max_request_tokens(reply_request.model)
        async with self._shared.log_read():
            recent = await recent_items_from_log(
                self._reader,
                conversation_id,
                at.version,
                max_tokens,
                self._counts,
                without=reply_request.without,
                end=end,
            )
            choice = await self._chooser.choose(recent, end, reply_request)
        await self._check_log(conversation_id, at)
        return choice

    async def _check_log(self, conversation_id: str, at: StreamVersion) -> None:
        head = await self._reader.head(conversation_id)
        if head is None or head.incarnation != at.incarnation:
            raise LogMoved("the log may have moved back while a context was read from it")

    async def render(self, reply_request: ReplyRequest, choice: ContextChoice) -> Context:
        summary = choice.recent.summary
        renderer = self._models.renderer

        def body_of(sent: Sequence[ContextItem]) -> dict[str, Any]:
            return render(
                renderer,
                model=reply_request.model,
                instructions=choice.instructions,
                summary=summary.text if summary else None,
                items=[item.item for item in sent],
                parameters=reply_request.parameters,
                item_ids=[item.item_id for item in sent],
                missing=choice.missing,
                cache_key=reply_request.cache_key,
            )

        body = body_of(choice.selection.sent)
        needed = needed_abilities(renderer, (sent.item for sent in choice.selection.sent)) if choice.missing else ()
        sequence, shared_prefix = sent_sequence(choice, reply_request, body, body_of)
        request_body = with_contents(self._reader, body)
        shown = Shown(
            version=choice.recent.version,
            ranges=shown_ranges(choice.selection),
            budget=choice.budget,
            tokens=choice.tokens,
            encoding=choice.encoding,
            renderer=renderer,
            request_sha256=await body_sha256(request_body),
            summary=summary.compaction_id if summary else None,
            left_out=recorded_left_out(choice.selection.left_out),
            notes=tuple(sorted(choice.missing.intersection(needed))),
            sequence=sequence,
            shared_prefix=shared_prefix,
        )
        return Context(
            body=request_body, shown=shown, sent_ids=frozenset(sent.item_id for sent in choice.selection.sent)
        )

    async def assemble_transcript(
        self, *, model: str, parameters: Mapping[str, Any], sent: SentMessages, version: int = 0
    ) -> Context:
        """The context of a Chat Completions request.

        All messages are sent, because the provider decides whether they fit. The recorded budget is the model's whole
        window. `version`: the version of the conversation that the request continues; 0 for a new conversation.
        """
        renderer = self._models.transcript_renderer
        rendered = render_transcript(renderer, model=model, messages=sent.messages, parameters=parameters)
        body = with_contents(self._reader, rendered)
        encoding = self._models.encoding(model)
        tokens = await self._shared.message_counts.total(sent, encoding)
        [parameter_tokens] = await count_off_loop([counted_parameters(parameters)], encoding)
        shown = Shown(
            version=version,
            ranges=(),
            budget=self._models.window(model),
            tokens=tokens + parameter_tokens,
            encoding=encoding,
            renderer=renderer,
            request_sha256=await body_sha256(body),
        )
        return Context(body=body, shown=shown)

    async def rerender(self, conversation_id: str, requested: Recorded, *, with_deleted: bool) -> Rerendered:
        return await rerender(self._reader, conversation_id, requested, self._counts, with_deleted=with_deleted)

    async def family(self, conversation_id: str) -> str:
        """The id of the first conversation in this conversation's chain of forks.

        Raises LogMoved if the log has lost this conversation's first event.
        """
        families = self._shared.families
        if (family := families.get(conversation_id)) is not None:
            return family
        family = family_of(await self._reader.conversation(conversation_id, limit=1))
        if family is None:
            raise LogMoved(f"the log no longer has the start of {conversation_id}")
        families[conversation_id] = family
        if len(families) > MAX_FAMILIES:
            del families[next(iter(families))]
        return family

    async def snapshot(self, conversation_id: str, model: str) -> RecentItems | None:
        """The snapshot may have any version.

        None if there is no usable snapshot, or if the snapshot has copies of deleted items.
        """
        assert self._reader.tenant is not None
        recent = await self._shared.find_snapshot(
            self._reader.tenant, conversation_id, self._models.max_request_tokens(model)
        )
        if recent is None:
            return None
        items = (*recent.pins, *recent.items)
        copies = {item.item_id: item.copy_of for item in items if item.copy_of is not None}
        return None if await deleted_items(self._reader, copies, [conversation_id]) else recent

    def path(self, end: PathSegment, after: str | None = None) -> AsyncIterator[ItemAppended]:
        """The path's items, oldest first, without items that are deleted now. `after`: only the items after this one."""
        return path(self._reader, end, after=after)

    async def count_items(self, items: Sequence[tuple[str, Item]], encoding: str) -> list[int]:
        return await self._counts.of(items, encoding)

    def unsendable(self, items: Sequence[Item]) -> dict[int, str]:
        """By index, why an item is not sent."""
        return unsendable(self._models.renderer, items)
