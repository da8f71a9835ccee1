"""Forks a conversation: at an item, at a version, or as it is now. The fork is a new conversation of the caller."""

from fastapi import APIRouter
from msgspec.structs import replace
from pydantic import Field
from starlette.responses import Response

from commands.access import readable_conversation
from commands.answers import conversation_answer
from commands.bodies import Body, Metadata, Title, examples
from commands.command_route import CommandContext, command_route
from commands.inherited_items import inherited_item
from commands.new_conversations import fork_at, last_item
from context.conversation_settings import unretracted
from context.deleted_content import deleted_items
from domain.conversation import Conversation as ConversationState
from domain.conversation import leaf_at_head
from domain.errors import ItemNotFound
from domain.events import HEAD, Event, Fork, HeadMoved, ItemAppended, Leaf, PathBranch
from domain.paths import FIRST_BRANCH, is_open, takes, up_to_item
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import position_headers
from infrastructure.http.path_ids import check_id
from infrastructure.http.shapes import Conversation, json_response
from replies.queued_reply import read_queue

router = APIRouter()


class ForkConversation(Body):
    """Where the conversation is forked: after an item, or as it was at a version. Without both: as it is now.

    `include_after`: the fork also gets the items that come after this place on the active path. `title`: default: the
    title of the conversation, if a person gave it.
    """

    model_config = examples({"item": "msg_019af3c5d2e07c31a7b1f0c1d2e3f405"}, {"version": 12, "title": "Another way"})

    item: str | None = None
    version: int | None = Field(None, ge=1)
    include_after: bool = False
    title: Title | None = None
    metadata: Metadata | None = None


@command_route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}/fork",
    ForkConversation,
    body_required=False,
    answer=Conversation,
)
async def fork_conversation(context: CommandContext, conversation_id: str, body: ForkConversation | None) -> Response:
    """Creates a fork: a new conversation that begins with the items up to the named place. Answers with the new Conversation.

    The fork belongs to the caller, and may be of any conversation that the caller may read. It inherits the items by
    reference, so it takes the same time for long and short conversations. It has the instructions, the policy and the pinned items
    of that version. An item that is deleted in the conversation is gone from the fork, too.
    """
    body = body or ForkConversation()
    if body.item is not None and body.version is not None:
        message = "Send `item` or `version`, not both."
        raise ApiError(400, message, code="mutually_exclusive_parameters", param="version")
    if (first := await context.first_answer()) is not None:
        headers = {**position_headers(first.position, first.version), "idempotent-replayed": "true"}
        return json_response(first.answer, headers=headers)
    await readable_conversation(context, conversation_id)
    read = await read_queue(context.dependencies.log, context.principal, conversation_id, context.request_id)
    state = read.conversation
    if context.if_match is not None and state.version not in context.if_match:
        raise VersionMismatch(state.version)
    start = await fork_at(context, await _origin(context, state, body), state.family)
    command = replace(
        start,
        listed=True,
        title=body.title if "title" in body.model_fields_set else state.title,
        metadata=body.metadata or {},
    )
    # `If-Match` names the version of the conversation that is forked, and was compared with it.
    return await replace(context, if_match=None).execute(command.conversation_id, command, conversation_answer)


async def _origin(context: CommandContext, state: ConversationState, body: ForkConversation) -> Fork:
    """The place that the body names. Raises ApiError (400) and ItemNotFound."""
    version = state.version
    if body.version is not None and body.version > version:
        message = f"`version` is after the conversation's version {version}."
        raise ApiError(400, message, code="invalid_value", param="version")
    if body.item is not None:
        leaf = await _leaf_of(context, state, check_id(body.item, None, "item"))
    elif body.version is not None and body.version < version:
        version = body.version
        leaf = await _head_at(context, state, version)
    else:
        leaf = leaf_at_head(state)
    if body.include_after:
        if not takes(state.path, leaf.path[-1].branch, leaf.depth):
            param = "item" if body.item else "version"
            message = f"No items come after this place on the active path: `{param}` is on another branch. Fork without `include_after`."
            raise ApiError(400, message, code="not_on_active_path", param=param)
        version, leaf = state.version, leaf_at_head(state)
    return Fork(conversation_id=state.id, item_id=leaf.item_id, version=version, depth=leaf.depth, branches=leaf.path)


async def _leaf_of(context: CommandContext, state: ConversationState, item_id: str) -> Leaf:
    """The item, and the path to it. Raises ItemNotFound if the conversation does not have it, or if it is deleted."""
    reader = context.dependencies.reader
    row = (await unretracted(reader, state.id, state.version, [item_id])).get(item_id)
    if row is None:
        inherited = await inherited_item(context, state.id, item_id)
        if inherited is None:
            raise ItemNotFound(item_id)
        return Leaf(item_id, inherited.depth, (PathBranch(0, inherited.depth, 0),))
    event = row.event
    assert isinstance(event, ItemAppended)
    if await deleted_items(reader, {item_id: event.copy_of}, [state.id]):
        raise ItemNotFound(item_id)
    opening: Event | None = event
    if event.branch:
        page = await reader.conversation(state.id, after=event.branch - 1, until=event.branch, limit=1)
        opening = page[0].event if page else None
    if not isinstance(opening, ItemAppended):
        raise LogMoved(f"the log no longer has the start of branch {event.branch} of {state.id}")
    return Leaf(item_id, event.depth, up_to_item(event, row.version, opening if event.branch else None))


async def _head_at(context: CommandContext, state: ConversationState, version: int) -> Leaf:
    """The last item of the active path at this version, deleted or not, and the path to it."""
    reader = context.dependencies.reader
    moves = await reader.items(state.id, [HEAD], until=version)
    path: tuple[PathBranch, ...] = FIRST_BRANCH
    if moves and isinstance(event := moves[-1].event, HeadMoved):
        path = event.path
        if not is_open(path):
            return Leaf(event.item_id, event.depth, path)
    last = await last_item(reader, state.id, version, path)
    if last is not None:
        end = PathBranch(last.branch, last.depth, version)
        return Leaf(last.item_id, last.depth, (*path[:-1], end))
    fork = state.forked_from
    depth = fork.depth if fork else 0
    return Leaf(fork.item_id if fork else None, depth, (PathBranch(0, depth, 0),))
