"""Reads a conversation's instructions, policy, pins and summary from the log."""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from msgspec import UNSET, Struct, field

from context.encodings import DEFAULT_ENCODING
from context.forks import fork_of, lineage_below
from context.tokens import count_off_loop
from context.withdrawn_summaries import is_withdrawn
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
from domain.paths import FIRST_BRANCH, PathSegment, takes
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head

MAX_SUMMARY_CHANGES = 64
"""How many changes are read to find the summary of a path. Older summaries are not found."""

SUMMARY_TOKENS = 32


class Summary(Struct, frozen=True, kw_only=True):
    """A summary that replaces the first items of a path.

    `depth` is the depth of the item `last`. `version` is the version of the ContextCompacted. `tokens` counts the
    text, in `o200k_base`. `tokens_before` counts the `count` items that the summary replaces. `has_copies`: whether
    some of these items are copies.
    Snapshots keep a Summary as JSON.
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
    has_copies: bool = False


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
        """A row of the content with this hash; None if it is not there. Each has ROW_BYTES but the last one."""

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
    summary.
    `withdrawn`: the versions of newer summaries that are withdrawn. `inherits`: whether the conversation began with
    pins or a summary of another conversation.
    """

    instructions: str | None
    policy: ContextPolicy
    pinned: tuple[str, ...]
    compaction: tuple[int, ContextCompacted] | None
    compacted_in: str = ""
    withdrawn: tuple[int, ...] = ()
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
    reader: Reader, conversation_id: str, version: int, branches: tuple[PathBranch, ...] | None = None
) -> ConversationSettings:
    """The settings at `version`, with the summary of the path `branches`. None means the active path. A summary that
    is withdrawn by now is left out.
    """
    pinned: tuple[str, ...] = ()
    active, has_summaries = 0, False
    by_version: dict[int, Recorded] = {}
    started: ConversationStarted | None = None
    moved: HeadMoved | None = None
    events = await reader.settings_events(conversation_id, until=version)
    for recorded in events:
        match recorded.event:
            case ConversationStarted():
                started, pinned = recorded.event, recorded.event.pinned
            case ItemPinned() | ItemUnpinned():
                pinned = recorded.event.pinned
            case ContextCompacted():
                active, has_summaries = recorded.version, True
                by_version[active] = recorded
            case CompactionUndone() | CompactionRedone():
                active, has_summaries = recorded.event.active, True
            case HeadMoved():
                moved = recorded.event
            case _:
                pass
    path = branches or (moved.path if moved else FIRST_BRANCH)
    if has_summaries and (moved is not None or path != FIRST_BRANCH):  # the last change may belong to another path
        changes = await reader.summary_changes(conversation_id, until=version, limit=MAX_SUMMARY_CHANGES)
        compacted = _active_on(path, changes)
        active = compacted.version if compacted else 0
        by_version = {active: compacted} if compacted else {}
    forked_from = started.forked_from if started else None
    compaction: tuple[int, ContextCompacted] | None = None
    compacted_in = conversation_id
    withdrawn: list[int] = []
    while active and compaction is None:
        compacted = by_version.get(active) or await _compacted(reader, conversation_id, active)
        event = compacted.event
        assert isinstance(event, ContextCompacted)
        if await is_withdrawn(reader, compacted, forked_from):
            withdrawn.append(active)
            active = event.replaces
        else:
            compaction = active, event
    if compaction is None and started is not None and started.summary is not None:
        compaction = await inherited_summary(reader, started.summary, conversation_id, path)
        compacted_in = started.summary.conversation_id
    instructions, policy = instructions_and_policy(events)
    return ConversationSettings(
        instructions=instructions,
        policy=policy,
        pinned=pinned,
        compaction=compaction,
        compacted_in=compacted_in,
        withdrawn=tuple(withdrawn),
        forked_from=forked_from,
        inherits=started is not None and inherits(started),
    )


def _active_on(branches: tuple[PathBranch, ...], newest_first: Sequence[Recorded]) -> Recorded | None:
    is_usable: dict[int, bool] = {}
    undone_above: int | None = None
    """Old CompactionUndone events name only the summary that became active."""
    for recorded in newest_first:
        match event := recorded.event:
            case CompactionUndone(undone=0):
                undone_above = event.active if undone_above is None else min(undone_above, event.active)
            case CompactionUndone():
                is_usable.setdefault(event.undone, False)
            case CompactionRedone():
                is_usable.setdefault(event.active, undone_above is None or event.active <= undone_above)
            case ContextCompacted():
                version = recorded.version
                usable = is_usable.get(version, undone_above is None or version <= undone_above)
                if usable and takes(branches, event.branch, event.depth):
                    return recorded
            case _:
                pass
    return None


async def inherited_summary(
    reader: Reader, summary: InheritedSummary | None, heir: str, branches: tuple[PathBranch, ...] = FIRST_BRANCH
) -> tuple[int, ContextCompacted] | None:
    """(version, event) of the summary that `heir` inherits on this path.

    If that summary is withdrawn or ends after the path, an earlier summary is returned. If the fork does not exist
    yet, `heir` is its origin.
    """
    if summary is None:
        return None
    conversation_id, version = summary.conversation_id, summary.version
    inherited_by = await lineage_below(reader, heir, conversation_id)
    forked_from = await fork_of(reader, conversation_id)
    while version:
        compacted = await _compacted(reader, conversation_id, version)
        event = compacted.event
        assert isinstance(event, ContextCompacted)
        # In the heir, inherited items are on branch 0.
        if takes(branches, 0, event.depth) and not await is_withdrawn(reader, compacted, forked_from, inherited_by):
            return version, event
        version = event.replaces
    return None


async def _compacted(reader: Reader, conversation_id: str, version: int) -> Recorded:
    page = await reader.conversation_backwards(conversation_id, until=version, limit=1)
    if not page or not isinstance(page[0].event, ContextCompacted):
        raise LogMoved(f"the log has no summary at version {version} of {conversation_id} any more")
    return page[0]


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
        has_copies=bool(event.originals),
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
    appended: dict[str, Recorded] = {}
    retracted: set[str] = set()
    for recorded in await reader.items(conversation_id, item_ids, until=version) if item_ids else ():
        match recorded.event:
            case ItemAppended(item_id=item_id):
                appended[item_id] = recorded
            case ItemRetracted(item_id=item_id):
                retracted.add(item_id)
            case ItemRestored(item_id=item_id):
                retracted.discard(item_id)
            case _:
                pass
    return {item_id: recorded for item_id, recorded in appended.items() if item_id not in retracted}
