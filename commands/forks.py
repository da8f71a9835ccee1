"""Forks a conversation."""

from fastapi import APIRouter
from msgspec.structs import replace
from pydantic import Field
from starlette.responses import Response

from commands.access import readable_conversation
from commands.answers import conversation_answer
from commands.bodies import Body, Metadata, Title, examples
from commands.command_route import CommandContext, command_route
from commands.item_places import place_of
from commands.new_conversations import fork_at, last_item
from domain.conversation import Conversation as ConversationState
from domain.conversation import leaf_at_head
from domain.events import Fork, HeadMoved, Leaf, PathBranch
from domain.paths import FIRST_BRANCH, is_open, takes
from infrastructure.event_log.append_request import VersionMismatch
from infrastructure.http.errors import ApiError
from infrastructure.http.path_ids import check_id
from infrastructure.http.shapes import Conversation
from replies.queued_reply import read_queue_state

router = APIRouter()


class ForkConversation(Body):
    """Where the conversation is forked: after an item, or as it was at a version. With neither: as it is now.

    `include_after`: the fork also gets the items that come after this place on the active path. Without
    `title`, the fork has the title of the conversation, if a person gave it.
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

    The fork belongs to the caller, who may fork any conversation that they may read. It inherits the items by
    reference, so it takes the same time for long and short conversations. With `version`, it has the instructions
    and the policy of that version, unless `include_after` is sent. Otherwise it has the present ones. It also has the pinned items and
    the summary that lie on its path. If an item is deleted in the conversation, it is gone from the fork too.
    """
    body = body or ForkConversation()
    if body.item is not None and body.version is not None:
        message = "Send `item` or `version`, not both."
        raise ApiError(400, message, code="mutually_exclusive_parameters", param="version")
    await readable_conversation(context, conversation_id)
    read = await read_queue_state(context.dependencies.log, context.principal, conversation_id, context.request_id)
    state = read.conversation
    if context.if_match is not None and state.version not in context.if_match:
        raise VersionMismatch(state.version)
    start = await fork_at(context, await _origin(context, state, body), state.family)
    command = replace(
        start,
        listed=True,
        title=body.title if "title" in body.model_fields_set else _persons_title(state),
        metadata=body.metadata or {},
    )
    # `If-Match` named the version of the conversation that is forked.
    return await replace(context, if_match=None).execute(command.conversation_id, command, conversation_answer)


def _persons_title(state: ConversationState) -> str | None:
    """A model's title is left out, because it may repeat items that are deleted later."""
    return state.title if state.title_by == "person" else None


async def _origin(context: CommandContext, state: ConversationState, body: ForkConversation) -> Fork:
    """Raises ApiError (400) and ItemNotFound."""
    version = state.version
    if body.version is not None and body.version > version:
        message = f"`version` is after the conversation's version {version}."
        raise ApiError(400, message, code="invalid_value", param="version")
    if body.item is not None:
        leaf = (await place_of(context, state.id, version, check_id(body.item, None, "item"))).leaf
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


async def _head_at(context: CommandContext, state: ConversationState, version: int) -> Leaf:
    """The last item of the active path at this version, deleted or not."""
    reader = context.dependencies.reader
    moved = await reader.head_moved(state.id, until=version)
    path: tuple[PathBranch, ...] = FIRST_BRANCH
    if moved is not None and isinstance(event := moved.event, HeadMoved):
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
