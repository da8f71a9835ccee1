"""What stands of a conversation at a version beside its items: description, pins and summary, of a few events found by index.

Also what contexts need of the log at all (`Reader`), and the log's word on single items (`there`).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import UNSET, Struct

from context.encodings import DEFAULT_ENCODING
from context.tokens import count_off_loop
from domain.events import (
    CompactionRedone,
    CompactionUndone,
    ContextCompacted,
    ContextPolicy,
    ConversationDescribed,
    ConversationStarted,
    Fork,
    ItemAppended,
    ItemPinned,
    ItemRetracted,
    ItemUnpinned,
)
from infrastructure.event_log.recorded import Recorded

SUMMARY_TOKENS = 32
"""What a summary costs beside its text: its message, and the words that say what it is."""


class Summary(Struct, frozen=True, kw_only=True):
    """A summary that stands for the path's items up to `depth`; `tokens` of its text in `o200k_base`.

    `version` is that of its ContextCompacted, `before` the tokens of what it stands for.
    """

    version: int
    compaction_id: str
    text: str
    tokens: int
    depth: int
    first: str
    last: str
    count: int
    before: int


class Reader(Protocol):
    """What a context needs of the log: EventReader, or the query side's, whose look-ups end soon."""

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        """At most `limit` events with `after` < version <= `until`, ascending; none only when there are none."""

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """At most `limit` events with version <= `until`, newest first; none only when there are none."""

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int) -> list[Recorded]:
        """Every event with version <= `until` that names any of these items, ascending."""

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        """How the conversation is described, which items are pinned and which summary stands, at `until`."""


class ConversationSettings(Struct, frozen=True, kw_only=True):
    """What a few events, found by index, say of a conversation at a version. `compacted`: the summary that stands, and its version."""

    instructions: str | None
    policy: ContextPolicy
    pinned: tuple[str, ...]
    compacted: tuple[int, ContextCompacted] | None
    forked_from: Fork | None


def described(events: Iterable[Recorded]) -> tuple[str | None, ContextPolicy]:
    """The instructions and the policy after these events."""
    instructions, policy = None, ContextPolicy()
    for recorded in events:
        if isinstance(event := recorded.event, ConversationStarted | ConversationDescribed):
            instructions = instructions if event.instructions is UNSET else event.instructions
            policy = policy if event.context_policy is UNSET else event.context_policy
    return instructions, policy


async def settings_at(reader: Reader, conversation_id: str, version: int) -> ConversationSettings:
    """What stands at `version`."""
    pinned: tuple[str, ...] = ()
    compacted: tuple[int, ContextCompacted] | None = None
    forked_from: Fork | None = None
    events = await reader.settings_events(conversation_id, until=version)
    for recorded in events:
        match recorded.event:
            case ConversationStarted():
                forked_from = recorded.event.forked_from
            case ItemPinned() | ItemUnpinned():
                pinned = recorded.event.pinned
            case ContextCompacted():
                compacted = recorded.version, recorded.event
            case CompactionUndone() | CompactionRedone() if recorded.event.active:
                [found] = await reader.conversation_backwards(conversation_id, until=recorded.event.active, limit=1)
                assert isinstance(found.event, ContextCompacted)
                compacted = found.version, found.event
            case _:
                pass
    instructions, policy = described(events)
    return ConversationSettings(
        instructions=instructions, policy=policy, pinned=pinned, compacted=compacted, forked_from=forked_from
    )


async def summary_of(compacted: tuple[int, ContextCompacted] | None) -> Summary | None:
    """The summary that an event recorded, counted."""
    if compacted is None:
        return None
    version, event = compacted
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
        before=event.tokens_before,
    )


async def unretracted(
    reader: Reader, conversation_id: str, version: int, item_ids: Sequence[str]
) -> dict[str, Recorded]:
    """The ItemAppended of those of these items that are not retracted at `version`, by id."""
    found: dict[str, Recorded] = {}
    for recorded in await reader.items(conversation_id, item_ids, until=version) if item_ids else ():
        match recorded.event:
            case ItemAppended(item_id=item_id):
                found[item_id] = recorded
            case ItemRetracted(item_id=item_id):
                found.pop(item_id, None)
            case _:
                pass
    return found
