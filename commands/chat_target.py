"""Finds where the reply to a Chat Completions request goes."""

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from commands.access import check_may_write, readable_conversation
from commands.command_route import CommandContext
from commands.new_conversations import fork_at, last_item, leaf_after, path_of, start_of, unlisted_conversation
from context.transcripts.matching import Match, find_match
from context.transcripts.parsed import ParsedTranscript
from context.transcripts.prefix_hashes import name_hash
from domain.commands import StartConversation
from domain.errors import ConversationNotFound
from domain.events import Fork, Leaf
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import single_header
from infrastructure.ids import CONVERSATION, is_id

MAX_NAME_LENGTH = 256


class ChatTarget(Struct, frozen=True, kw_only=True):
    """Where a reply goes.

    start           starts the conversation; None: the conversation exists
    match           the last item that the transcript and the conversation have in common
    expected_head   the id of the item that must be the conversation's head at the append; UNSET: not checked
    leaf            where the reply opens a branch; None: the reply goes to the head
    name_hash       the hash of the name that the client gave the conversation
    read_version    the version that the transcript was compared with, or the version after its history was appended;
                    None if there is neither
    """

    conversation_id: str
    start: StartConversation | None = None
    match: Match | None = None
    expected_head: str | UnsetType = UNSET
    leaf: Leaf | None = None
    name_hash: bytes | None = None
    read_version: int | None = None


async def find_chat_target(context: CommandContext, transcript: ParsedTranscript) -> ChatTarget:
    """The target of a request with this transcript.

    A conversation named in `X-Conversation-Id` is used even if the transcript continues another conversation.

    Raises ApiError (400), ConversationNotFound and NotAllowed for such a name.
    """
    name = single_header(context.headers, "X-Conversation-Id")
    named = hashed_name = None
    if name is not None:
        named, hashed_name = await _named(context, name)
    match = await find_match(context.dependencies.reader, transcript, only_in=named)
    if match is not None:
        target = ChatTarget(
            conversation_id=match.conversation_id,
            match=match,
            expected_head=match.item_id,
            read_version=match.read_version,
        )
    elif named is not None:
        target = ChatTarget(conversation_id=named)
    else:
        target = new_target(context)
    return replace(target, name_hash=hashed_name)


def new_target(context: CommandContext) -> ChatTarget:
    """A new conversation, unlisted until its second turn."""
    start = unlisted_conversation(context)
    return ChatTarget(conversation_id=start.conversation_id, start=start)


async def branch_target(context: CommandContext, target: ChatTarget, match: Match) -> ChatTarget:
    """The target that opens a branch after the match."""
    leaf = await leaf_after(
        context.dependencies.reader, match.conversation_id, match.item_id, match.depth, match.read_version
    )
    return replace(target, expected_head=UNSET, leaf=leaf)


async def fork_target(context: CommandContext, target: ChatTarget) -> ChatTarget:
    """A fork after the match, or after the conversation's last item. Without either, a new conversation.

    Raises ConversationNotFound.
    """
    reader, conversation_id = context.dependencies.reader, target.conversation_id
    head = await reader.readable_head(conversation_id)
    if head is None:
        raise ConversationNotFound(conversation_id)
    if (match := target.match) is not None:
        item_id, depth = match.item_id, match.depth
    elif (last := await last_item(reader, conversation_id, head.version)) is not None:
        item_id, depth = last.item_id, last.depth
    else:
        return replace(new_target(context), name_hash=None)
    started = await start_of(reader, conversation_id)
    branches = await path_of(reader, conversation_id, item_id, head.version)
    origin = Fork(
        conversation_id=conversation_id, item_id=item_id, version=head.version, depth=depth, branches=branches
    )
    start = await fork_at(context, origin, started.family)
    return replace(
        target,
        conversation_id=start.conversation_id,
        start=start,
        expected_head=UNSET,
        leaf=None,
        read_version=None,
    )


async def _named(context: CommandContext, name: str) -> tuple[str | None, bytes | None]:
    """The conversation with this name, and the hash of the name. No hash if the name is a conversation's id."""
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        message = f"`X-Conversation-Id` must have 1 to {MAX_NAME_LENGTH} characters."
        raise ApiError(400, message, code="invalid_header", param="X-Conversation-Id")
    if is_id(name, CONVERSATION):
        check_may_write(context, name, await readable_conversation(context, name))
        return name, None
    principal = context.principal
    hashed = name_hash(principal.tenant, principal.subject, name)
    return await context.dependencies.reader.conversation_named(hashed), hashed
