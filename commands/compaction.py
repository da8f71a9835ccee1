"""The compaction of a conversation: compact, undo, redo."""

from typing import Annotated

from fastapi import APIRouter
from msgspec import Struct, field
from pydantic import StringConstraints
from starlette.responses import Response

from commands.access import check_may_write, readable_conversation
from commands.answers import conversation_answer
from commands.bodies import Body, Instructions, examples
from commands.command_route import CommandContext, command_route
from commands.rolling_summary import summarize
from context.choice import ReplyRequest
from context.summary_changes import redoable_summary, undoable_summary
from domain.commands import RedoCompaction, UndoCompaction
from domain.errors import NothingToCompact
from domain.events import ContextCompacted
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.shapes import Conversation

router = APIRouter()


class CompactConversation(Body):
    """`model` writes the summary; `instructions` are added to its prompt."""

    model_config = examples({"model": "gpt-5-mini", "instructions": "Keep all dates."})

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    instructions: Instructions | None = None


class ConversationCompaction(Struct, frozen=True, kw_only=True, tag_field="object", tag="conversation.compaction"):
    """A summary that stands for `count` items, from the item `from` to the item `to`. `tokens_before` counts those items, `tokens_after` the summary."""

    id: str
    summary: str
    first: str = field(name="from")
    to: str
    count: int
    tokens_before: int
    tokens_after: int
    model: str


@command_route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}/compact",
    CompactConversation,
    scope="reply",
    body_required=False,
    answer=ConversationCompaction,
    errors=(502, 504),
)
async def compact_conversation(
    context: CommandContext, conversation_id: str, body: CompactConversation | None
) -> Response:
    """Asks a model to summarize the older turns. The newest turns that fit in half the budget are left as they are.

    Every item stays readable. Answers with the compaction.
    """
    dependencies = context.dependencies
    head = await readable_conversation(context, conversation_id)
    check_may_write(context, conversation_id, head)
    if (repeated := await context.repeated_answer()) is not None:
        return repeated  # without calling the model again
    await context.allowance.reply()
    body = body or CompactConversation()
    model = body.model or await dependencies.provider.default_model(context.principal.tenant)
    reply_request = ReplyRequest(model=model, parameters={}, input_unknown=True)
    choice = await dependencies.contexts.choose(conversation_id, head.stream_version, reply_request)
    command = await summarize(
        context, conversation_id, choice, model, limit=choice.budget, instructions=body.instructions
    )
    if command is None:
        raise NothingToCompact(conversation_id)
    return await context.execute(conversation_id, command, _compaction)


def _compaction(appended: Appended) -> bytes:
    [event] = appended.events
    assert isinstance(event, ContextCompacted)
    return shapes.encode(
        ConversationCompaction(
            id=event.compaction_id,
            summary=event.summary,
            first=event.first,
            to=event.last,
            count=event.count,
            tokens_before=event.tokens_before,
            tokens_after=event.tokens_after,
            model=event.model,
        )
    )


@command_route(router, "POST", "/v1/conversations/{conversation_id}/compact/undo", answer=Conversation)
async def undo_compaction(context: CommandContext, conversation_id: str) -> Response:
    """Restores the previous summary, or the items themselves if there was none. Answers with the Conversation."""
    version = (await readable_conversation(context, conversation_id)).version
    undone, active = await undoable_summary(context.dependencies.reader, conversation_id, version)
    command = UndoCompaction(undone=undone, active=active, read_version=version)
    return await context.execute(conversation_id, command, conversation_answer)


@command_route(router, "POST", "/v1/conversations/{conversation_id}/compact/redo", answer=Conversation)
async def redo_compaction(context: CommandContext, conversation_id: str) -> Response:
    """Restores the summary that was undone last. Answers with the Conversation."""
    version = (await readable_conversation(context, conversation_id)).version
    active = await redoable_summary(context.dependencies.reader, conversation_id, version)
    command = RedoCompaction(active=active, read_version=version)
    return await context.execute(conversation_id, command, conversation_answer)
