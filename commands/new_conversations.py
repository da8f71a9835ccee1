"""Makes the commands that start unlisted conversations and forks, and finds where forks and branches begin."""

from msgspec.structs import replace

from commands.command_route import CommandContext
from context.branch_paths import active_branches, branches_to, opening_of
from context.conversation_settings import retracted_by, settings_at
from context.pinned_items import appended_on_path
from domain.commands import StartConversation
from domain.events import ConversationStarted, Fork, HeadMoved, InheritedSummary, ItemAppended, Leaf, PathBranch
from domain.paths import FIRST_BRANCH, PathSegment, is_open, origin_of, up_to_item
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.ids import CONVERSATION, mint, mint_in_partition_of

PAGE_EVENTS = 50
"""How many events are read at a time to find the last item."""


def unlisted_conversation(context: CommandContext) -> StartConversation:
    return StartConversation(
        conversation_id=mint(CONVERSATION),
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        context_policy=context.policy(),
        listed=False,
    )


async def fork_at(context: CommandContext, origin: Fork, family: str) -> StartConversation:
    """The command that starts an unlisted fork that the caller owns.

    `family`: the first conversation in the chain of forks. The fork is in the same partition.

    The fork gets the origin's settings at `origin.version`, but only the pins and the summary that lie on its path. A
    pin that a retraction took from the origin does not come back in the fork when the item is restored.
    """
    reader = context.dependencies.reader
    path = origin.branches or (PathBranch(0, origin.depth, origin.version),)
    settings = await settings_at(reader, origin.conversation_id, origin.version, path)
    on_path = (await appended_on_path(reader, origin_of(origin), settings.pinned)).rows
    own_events = await reader.items(origin.conversation_id, list(on_path), until=origin.version) if on_path else ()
    pinned = on_path.keys() - retracted_by(own_events)
    summary = None
    if settings.compaction is not None and settings.compaction[1].depth <= origin.depth:
        summary = InheritedSummary(conversation_id=settings.compacted_in, version=settings.compaction[0])
    return replace(
        unlisted_conversation(context),
        conversation_id=mint_in_partition_of(family),
        forked_from=origin,
        family=family,
        instructions=settings.instructions,
        context_policy=settings.policy,
        pinned=tuple(item_id for item_id in settings.pinned if item_id in pinned),
        summary=summary,
    )


async def start_of(reader: PrincipalReader, conversation_id: str) -> ConversationStarted:
    """Raises LogMoved if the first event is not in the log."""
    first_page = await reader.conversation(conversation_id, limit=1)
    if not first_page or not isinstance(started := first_page[0].event, ConversationStarted):
        raise LogMoved(f"the log no longer has the start of {conversation_id}")
    return started


async def last_item(
    reader: PrincipalReader, conversation_id: str, version: int, branches: tuple[PathBranch, ...] | None = None
) -> ItemAppended | None:
    """The last item of the path at this version. Inherited items do not count. `branches`: the path. Default: the active
    path.
    """
    path = PathSegment(conversation_id, version, branches or await active_branches(reader, conversation_id, version))
    until = path.newest_version(version)
    while until > 0:
        page = await reader.conversation_backwards(conversation_id, until=until, limit=PAGE_EVENTS)
        for recorded in page:
            event = recorded.event
            if isinstance(event, ItemAppended) and path.contains(event.branch, event.depth, recorded.version):
                return event
        until = path.newest_version(page[-1].version - 1) if page else 0
    return None


async def head_id(
    reader: PrincipalReader, conversation_id: str, version: int, *, path_at: int | None = None
) -> str | None:
    """The id of the last item of the active path at `version`. The item may be inherited.

    With `path_at`, the path is the active path at version `path_at`.
    """
    moved = await reader.head_moved(conversation_id, until=path_at or version)
    branches: tuple[PathBranch, ...] = FIRST_BRANCH
    if moved is not None and isinstance(event := moved.event, HeadMoved):
        branches = event.path
        if not is_open(branches):
            return event.item_id
    if (last := await last_item(reader, conversation_id, version, branches)) is not None:
        return last.item_id
    origin = (await start_of(reader, conversation_id)).forked_from
    return origin.item_id if origin else None


async def path_of(reader: PrincipalReader, conversation_id: str, item_id: str, version: int) -> tuple[PathBranch, ...]:
    """The branches of the path to an item. Empty for branch 0 and for inherited items."""
    for row in await reader.items(conversation_id, [item_id], until=version):
        if isinstance(event := row.event, ItemAppended) and event.branch:
            end = PathBranch(event.branch, event.depth, row.version)
            return await branches_to(reader, conversation_id, end) or ()
    return ()


async def leaf_after(reader: PrincipalReader, conversation_id: str, item_id: str, depth: int, version: int) -> Leaf:
    """The leaf at an item that the conversation has or inherits."""
    for row in await reader.items(conversation_id, [item_id], until=version):
        if isinstance(event := row.event, ItemAppended):
            opening = await opening_of(reader, conversation_id, event)
            return Leaf(item_id, depth, up_to_item(event, row.version, opening))
    return Leaf(item_id, depth, (PathBranch(0, depth, 0),))
