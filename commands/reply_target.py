"""Finds the conversation that a reply is appended to, and the place there.

A reply that continues from a response is appended at the head if no item follows the response and no other reply
runs there. Otherwise the reply opens a branch. If the caller may only read the conversation, the reply starts a new one.
"""

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from commands.access import check_may_write, may_write, readable_conversation
from commands.command_route import CommandContext
from commands.item_links import linked
from commands.new_conversations import fork_at, head_id, last_item, leaf_after, start_of, unlisted_conversation
from commands.response_body import CreateResponse
from commands.unstored_replies import UnstoredReply
from context.deleted_content import deleted_items, original_in
from context.history_backwards import RecentItems
from context.readable_files import find_files
from domain.commands import NewItem, StartConversation
from domain.content_references import references
from domain.errors import ResponseNotFound
from domain.events import Fork, ItemAppended, Leaf, PathBranch, ReplyCompleted, ReplyRequested, joined_ids
from domain.items import as_stored, from_stored, id_prefix, is_usable
from infrastructure.event_log.incarnation import LogMoved, StreamVersion
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.http.errors import ApiError
from infrastructure.http.path_ids import check_id
from infrastructure.ids import CONVERSATION, RESPONSE, is_id, mint
from replies.record import Record, find_record


class ReplyTarget(Struct, frozen=True, kw_only=True):
    """Where a reply goes.

    source         the conversation whose context is sent to the model
    at             the version of `source` at which the context is taken
    start          creates a new conversation for the reply. None: the reply goes into `source`
    fallback       replaces this target if the reply cannot be appended here
    expected_head  the id of the item that must be the head of `source` at the append. None: there must be no head. UNSET: not checked
    leaf           the place in `source` at which the reply opens a branch. None: the reply is appended at the head
    alone          whether the reply is refused if another reply will also be appended at `leaf`
    regenerates    the item or response that the reply is another version of
    carried_items  items of a previous reply that was not stored or did not join. These items are sent before the input
    retracts       ids of a partial answer. The append retracts these items, because the reply is tried again
    reuses         as in RequestReply
    snapshot       the snapshot of `source`; None if there is none, UNSET if it was not read yet
    """

    source: str | None
    at: StreamVersion | None
    start: StartConversation | None = None
    fallback: "ReplyTarget | None" = None
    expected_head: str | None | UnsetType = UNSET
    leaf: Leaf | None = None
    alone: bool = False
    regenerates: str | None = None
    carried_items: tuple[NewItem, ...] = ()
    retracts: tuple[str, ...] = ()
    reuses: tuple[str, ...] = ()
    snapshot: RecentItems | UnsetType | None = UNSET

    @property
    def version(self) -> int:
        """The version of `source`; 0 without one."""
        return self.at.version if self.at else 0

    @property
    def conversation_id(self) -> str:
        conversation_id = self.source if self.start is None else self.start.conversation_id
        assert conversation_id is not None
        return conversation_id

    @property
    def fork(self) -> StartConversation | None:
        return self.start if self.start is not None and self.start.forked_from is not None else None


async def find_target(context: CommandContext, body: CreateResponse, *, writes: bool) -> ReplyTarget:
    """The target that the request names.

    `writes`: whether the reply will be appended. If not, the right to read the conversation is enough.

    Raises ConversationNotFound, NotAllowed, LogMoved, and ApiError: 400 for an unknown previous response or a malformed
    id, 409 while the previous response runs or waits.
    """
    target = await _find_target(context, body, writes=writes)
    copies = {new.item_id: new.copy_of for new in target.carried_items if new.copy_of is not None}
    deleted = await deleted_items(context.dependencies.reader, copies)
    deleted = deleted | await _with_deleted_files(context, target.carried_items)
    if not deleted:
        return target
    return replace(target, carried_items=tuple(new for new in target.carried_items if new.item_id not in deleted))


async def _with_deleted_files(context: CommandContext, carried: Sequence[NewItem]) -> set[str]:
    """Which items have an image or a file that the caller may no longer read. Only items of unstored replies can."""
    files_of = {new.item_id: {each.file_id for each in references(from_stored(new.item))} for new in carried}
    named = {file_id for file_ids in files_of.values() for file_id in file_ids}
    found = await find_files(context.contents.reader, context.contents.store, named)
    return {item_id for item_id, file_ids in files_of.items() if not file_ids <= found.keys()}


async def _find_target(context: CommandContext, body: CreateResponse, *, writes: bool) -> ReplyTarget:
    if context.unstored is not None and context.unstored.response_id == body.previous_response_id:
        return await _after_unstored(context, context.unstored)
    if body.previous_response_id is not None:
        return await _after_response(context, await _previous_reply(context, body.previous_response_id))
    if body.conversation_id is None:
        return ReplyTarget(source=None, at=None, start=unlisted_conversation(context))
    conversation_id = check_id(body.conversation_id, CONVERSATION, "conversation")
    head = await readable_conversation(context, conversation_id)
    if writes:
        check_may_write(context, conversation_id, head)
    return ReplyTarget(source=conversation_id, at=head.stream_version)


async def _after_unstored(context: CommandContext, reply: UnstoredReply) -> ReplyTarget:
    if reply.after is None:
        return ReplyTarget(source=None, at=None, start=unlisted_conversation(context), carried_items=reply.items)
    target = await _after_response(context, await _previous_reply(context, reply.after))
    return replace(target, carried_items=reply.items)


async def _previous_reply(context: CommandContext, response_id: str) -> Record:
    """Raises ApiError (400, 409)."""
    try:
        if not is_id(response_id, RESPONSE):
            raise ResponseNotFound(response_id)
        record = await find_record(context.dependencies.reader, response_id)
    except ResponseNotFound:
        raise ApiError(
            400,
            f"Previous response with id {response_id[:64]!r} not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        ) from None
    if record.end is None:
        raise ApiError(
            409,
            f"Response {response_id} is still in progress: try again when it has ended.",
            code="response_in_progress",
            param="previous_response_id",
            retry=True,
        )
    return record


async def _after_response(context: CommandContext, record: Record) -> ReplyTarget:
    """If the caller may only read the conversation, the target is a fork, or a new conversation if there is nothing
    to fork.
    """
    reader, conversation_id = context.dependencies.reader, record.conversation_id
    joined = isinstance(record.end, ReplyCompleted) or (record.end is not None and bool(joined_ids(record.end)))
    carried_items = () if joined else await _carried_items(context, record)
    joined_at = record.end_event if joined else None
    at = (joined_at or record.request_event).stream_version
    leaf = await _leaf_after(reader, record, at.version)
    if not may_write(context, record.head):
        start = await _start_after(context, record, at.version, leaf)
        source = conversation_id if start.forked_from is not None else None
        return ReplyTarget(source=source, at=at if source else None, start=start, carried_items=carried_items)
    head = await reader.head(conversation_id)
    if head is None:
        raise LogMoved(f"the log no longer has {conversation_id}")
    target = ReplyTarget(source=conversation_id, at=head.stream_version, carried_items=carried_items)
    on_new_branch = replace(target, leaf=leaf)
    if await head_id(reader, conversation_id, head.version) != leaf.item_id:
        return on_new_branch
    return replace(target, expected_head=leaf.item_id, fallback=on_new_branch)


async def _leaf_after(reader: PrincipalReader, record: Record, version: int) -> Leaf:
    """The place after the items that a reply added. If it added none: the place where it would have added them."""
    conversation_id, requested = record.conversation_id, record.requested
    last = await _joined_last(reader, record)
    if last is None and isinstance(requested, ReplyRequested) and requested.after is not None:
        return requested.after
    last = last or await last_item(reader, conversation_id, version)
    if last is not None:
        return await leaf_after(reader, conversation_id, last.item_id, last.depth, version)
    origin = (await start_of(reader, conversation_id)).forked_from
    if origin is not None:
        return Leaf(origin.item_id, origin.depth, (PathBranch(0, origin.depth, 0),))
    return Leaf(None, 0, (PathBranch(0, 0, 0),))


async def _joined_last(reader: PrincipalReader, record: Record) -> ItemAppended | None:
    """The last item that joined with a reply."""
    ids = joined_ids(record.end) if record.end is not None else ()
    rows = await reader.items(record.conversation_id, ids[-1:]) if ids else []
    return next((row.event for row in rows if isinstance(row.event, ItemAppended)), None)


async def _start_after(context: CommandContext, record: Record, version: int, leaf: Leaf) -> StartConversation:
    if leaf.item_id is None:
        return unlisted_conversation(context)
    origin = Fork(
        conversation_id=record.conversation_id,
        item_id=leaf.item_id,
        version=version,
        depth=leaf.depth,
        branches=leaf.path if len(leaf.path) > 1 else (),
    )
    started = await start_of(context.dependencies.reader, record.conversation_id)
    return await fork_at(context, origin, started.family)


async def _carried_items(context: CommandContext, record: Record) -> tuple[NewItem, ...]:
    """The input and the usable output of a reply that did not join its conversation, as new items.

    Deleted input is left out. Each item is a copy with a new id. The item's JSON keeps the old id.
    """
    input_items = record.requested.input
    deleted = await deleted_items(
        context.dependencies.reader, {stored.item_id: stored.copy_of for stored in input_items}
    )
    carried = [(stored, from_stored(stored.item)) for stored in input_items if stored.item_id not in deleted]
    carried += [(stored, item) for stored in record.output if is_usable(item := from_stored(stored.item))]
    return linked(
        [
            NewItem(
                item_id=mint(id_prefix(item)),
                item=as_stored({**item, "id": stored.item_id}),
                copy_of=stored.copy_of or original_in(record.response_id, stored.item_id),
            )
            for stored, item in carried
        ]
    )
