"""Reads a conversation's instructions, policy, pins and summary from the log."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Protocol

from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from context.encodings import DEFAULT_ENCODING
from context.forks import fork_of, read_path
from context.summary_changes import usable_summaries
from context.tokens import count_off_loop
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ContextPolicy,
    ConversationDescribed,
    ConversationStarted,
    Fork,
    HeadMoved,
    InheritedSummary,
    ItemAppended,
    ItemPinned,
    ItemRestored,
    ItemRetracted,
    ItemUnpinned,
    PathBranch,
)
from domain.paths import FIRST_BRANCH, PathSegment
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head

SUMMARY_TOKENS = 32


class Summary(Struct, frozen=True, kw_only=True):
    """A summary that replaces the first items of a path.

    `depth` is the depth of the item `last`. `version` is the version of the ContextCompacted. `tokens` counts the
    text, in `o200k_base`. `tokens_before` counts the `count` items that the summary replaces. Snapshots keep a Summary
    as JSON.
    """

    version: int
    compaction_id: str
    text: str
    tokens: int
    depth: int
    first: str
    last: str
    count: int
    tokens_before: int = field(name="before")


class Reader(Protocol):
    @property
    def tenant(self) -> str | None:
        """The tenant whose conversations this reader reads."""

    async def head(self, conversation_id: str) -> Head | None:
        """The conversation's last event; None if it was never started."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending.

        A page may be short; only an empty page is the end.
        """

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` events with version <= `until`, newest first.

        A page may be short; only an empty page is the end.
        """

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """Every event about one of these items, with version <= `until`, ascending.

        `item_ids` may also have ids of responses.
        """

    async def content_row(self, sha256: bytes, number: int) -> bytes | None:
        """A row of the content with this hash; None if it is not there. Each row but the last has ROW_BYTES."""

    async def head_moved(self, conversation_id: str, *, until: int) -> Recorded | None:
        """The last HeadMoved with version <= `until`; None if there is none."""

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """As in `context/deleted_content.py`."""

    async def deleted_responses(self, conversation_id: str, response_ids: Sequence[str]) -> frozenset[str]:
        """Which of these responses of the conversation a client has deleted."""

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        """The events that decide which settings the conversation has at version `until`."""

    async def summary_changes(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` changes of the conversation's summaries with version <= `until`, newest first."""

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """Every event after position `after` that deletes or restores something in these conversations."""


class ConversationSettings(Struct, frozen=True, kw_only=True):
    """A conversation's settings at a version.

    `pinned` lists item ids. Some of these items may be deleted. `compaction` is (version, event) of the active
    summary. `inherits`: whether the conversation began with pins or a summary of another conversation.
    """

    instructions: str | None
    policy: ContextPolicy
    pinned: tuple[str, ...]
    compaction: tuple[int, ContextCompacted] | None
    compacted_in: str = ""
    forked_from: Fork | None
    inherits: bool = False


def inherits(started: ConversationStarted) -> bool:
    return bool(started.pinned) or started.summary is not None


def family_of(events: Iterable[Recorded]) -> str | None:
    """The family in the conversation's first event. None if `events` lack this event."""
    return next((event.event.family for event in events if isinstance(event.event, ConversationStarted)), None)


def instructions_and_policy(events: Iterable[Recorded]) -> tuple[str | None, ContextPolicy]:
    instructions, policy = None, ContextPolicy()
    for recorded in events:
        if isinstance(event := recorded.event, ConversationStarted | ConversationDescribed):
            instructions = instructions if event.instructions is UNSET else event.instructions
            policy = policy if event.context_policy is UNSET else event.context_policy
    return instructions, policy


async def settings_at(
    reader: Reader,
    conversation_id: str,
    version: int,
    branches: tuple[PathBranch, ...] | None = None,
    *,
    by_own_events: bool = False,
) -> ConversationSettings:
    """The settings at `version`, with the summary of the path `branches`. None means the active path. A summary that
    is withdrawn by now is left out. `by_own_events`: ignore inherited summaries, and deletions in other conversations.
    """
    pinned: tuple[str, ...] = ()
    started: ConversationStarted | None = None
    moved: HeadMoved | None = None
    summary_change: Recorded | None = None
    events = await reader.settings_events(conversation_id, until=version)
    for recorded in events:
        match recorded.event:
            case ConversationStarted():
                started, pinned = recorded.event, recorded.event.pinned
            case ItemPinned() | ItemUnpinned():
                pinned = recorded.event.pinned
            case ContextCompacted() | CompactionUndone() | CompactionRedone():
                summary_change = recorded
            case HeadMoved():
                moved = recorded.event
            case _:
                pass
    path = PathSegment(conversation_id, version, branches or (moved.path if moved else FIRST_BRANCH))
    forked_from = started.forked_from if started else None
    compaction: tuple[int, ContextCompacted] | None = None
    compacted_in = conversation_id
    if summary_change is not None:
        summaries = usable_summaries(
            reader, path, forked_from, first_page=[summary_change], by_own_events=by_own_events
        )
        compaction = await _newest(summaries)
    if compaction is None and started is not None and started.summary is not None and not by_own_events:
        compaction = await inherited_summary(reader, started.summary, path)
        compacted_in = started.summary.conversation_id
    instructions, policy = instructions_and_policy(events)
    return ConversationSettings(
        instructions=instructions,
        policy=policy,
        pinned=pinned,
        compaction=compaction,
        compacted_in=compacted_in,
        forked_from=forked_from,
        inherits=started is not None and inherits(started),
    )


async def inherited_summary(
    reader: Reader, summary: InheritedSummary | None, end: PathSegment
) -> tuple[int, ContextCompacted] | None:
    """(version, event) of the summary that the path inherits. `end`: the path's newest segment.

    If that summary is withdrawn or ends after the path, returns an earlier one or None.
    """
    if summary is None:
        return None
    path = await read_path(reader, end)
    index = path.conversations.index(summary.conversation_id)
    origin = replace(path.segments[index], version=summary.version)
    fork = await fork_of(reader, summary.conversation_id)
    return await _newest(usable_summaries(reader, origin, fork, inherited_by=path.conversations[index + 1 :]))


async def _newest(summaries: AsyncIterator[Recorded]) -> tuple[int, ContextCompacted] | None:
    async for recorded in summaries:
        assert isinstance(recorded.event, ContextCompacted)
        return recorded.version, recorded.event
    return None


async def counted_summary(compaction: tuple[int, ContextCompacted] | None) -> Summary | None:
    if compaction is None:
        return None
    version, event = compaction
    [tokens] = await count_off_loop([event.summary], DEFAULT_ENCODING)
    return Summary(
        version=version,
        compaction_id=event.compaction_id,
        text=event.summary,
        tokens=tokens,
        depth=event.depth,
        first=event.first,
        last=event.last,
        count=event.count,
        tokens_before=event.tokens_before,
    )


async def retracted_at(reader: Reader, segment: PathSegment, item_ids: Sequence[str], position: int) -> set[str]:
    """Which items were retracted at the segment's version, and not restored before log position `position`."""
    retracted: set[str] = set()
    for recorded in await reader.items(segment.conversation_id, item_ids) if item_ids else ():
        match recorded.event:
            case ItemRetracted(item_id=item_id) if recorded.version <= segment.version:
                retracted.add(item_id)
            case ItemRestored(item_id=item_id) if recorded.version <= segment.version or recorded.position < position:
                retracted.discard(item_id)
            case _:
                pass
    return retracted


async def unretracted(
    reader: Reader, conversation_id: str, version: int, item_ids: Sequence[str]
) -> dict[str, Recorded]:
    """The ItemAppended of each item that is not retracted at `version`, by item id."""
    rows = await reader.items(conversation_id, item_ids, until=version) if item_ids else ()
    retracted = retracted_by(rows)
    return {
        event.item_id: row
        for row in rows
        if isinstance(event := row.event, ItemAppended) and event.item_id not in retracted
    }


def retracted_by(events: Iterable[Recorded]) -> set[str]:
    """Which items are retracted after these events. `events`: ascending."""
    retracted: set[str] = set()
    for recorded in events:
        match recorded.event:
            case ItemRetracted(item_id=item_id):
                retracted.add(item_id)
            case ItemRestored(item_id=item_id):
                retracted.discard(item_id)
            case _:
                pass
    return retracted
