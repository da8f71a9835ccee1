"""The life cycle of conversations."""

from typing import Annotated, ClassVar

from fastapi import APIRouter
from msgspec import UNSET, Struct
from pydantic import StringConstraints
from starlette.responses import Response

from commands.answers import conversation_answer
from commands.bodies import (
    MAX_SHORT_TEXT_LENGTH,
    Body,
    Instructions,
    Items,
    Metadata,
    Policy,
    Title,
    examples,
    new_items,
)
from commands.command_route import CommandContext, command_route
from commands.other_apis import OTHER_NAMES_OF_CONVERSATIONS
from domain import commands
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.body import MAX_ITEMS_BODY_BYTES
from infrastructure.http.shapes import Conversation
from infrastructure.ids import CONVERSATION, mint

router = APIRouter()


class CreateConversation(Body):
    """All fields are optional. `items`: the first items of the conversation."""

    OTHER_NAMES: ClassVar = OTHER_NAMES_OF_CONVERSATIONS
    model_config = examples(
        {
            "title": "A trip to Oslo",
            "metadata": {"customer": "4711"},
            "items": [{"type": "message", "role": "user", "content": "When is the best time to visit Oslo?"}],
        }
    )

    items: Items | None = None
    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


@command_route(
    router,
    "POST",
    "/v1/conversations",
    CreateConversation,
    max_bytes=MAX_ITEMS_BODY_BYTES,
    answer=Conversation,
    errors=(404,),
)
async def create_conversation(context: CommandContext, body: CreateConversation) -> Response:
    """Creates a conversation, with its first items if any are given. Answers with the Conversation."""
    conversation_id = mint(CONVERSATION)
    command = commands.StartConversation(
        conversation_id=conversation_id,
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        title=body.title,
        instructions=body.instructions,
        metadata=body.metadata or {},
        context_policy=context.policy(body.context_policy),
        items=new_items(body.items or []),
    )
    return await context.execute(conversation_id, command, conversation_answer)


class UpdateConversation(Body):
    """An absent field stays as it is. `null` clears a field. `metadata` replaces all pairs.

    `context_policy` replaces the whole policy: fields that are absent in it get the tenant's defaults. If it is `null`,
    all fields get the defaults.
    """

    model_config = examples({"title": "A trip to Bergen"})

    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


@command_route(router, "POST", "/v1/conversations/{conversation_id}", UpdateConversation, answer=Conversation)
async def update_conversation(context: CommandContext, conversation_id: str, body: UpdateConversation) -> Response:
    """Changes the fields that the body has. Answers with the Conversation."""
    present = body.model_fields_set
    command = commands.DescribeConversation(
        metadata=(body.metadata or {}) if "metadata" in present else UNSET,
        title=body.title if "title" in present else UNSET,
        instructions=body.instructions if "instructions" in present else UNSET,
        context_policy=context.policy(body.context_policy) if "context_policy" in present else UNSET,
    )
    return await context.execute(conversation_id, command, conversation_answer)


class EndConversation(Body):
    """`reason` is recorded."""

    model_config = examples({"reason": "solved"})

    reason: Annotated[str, StringConstraints(max_length=MAX_SHORT_TEXT_LENGTH)] | None = None


@command_route(
    router, "POST", "/v1/conversations/{conversation_id}/end", EndConversation, body_required=False, answer=Conversation
)
async def end_conversation(context: CommandContext, conversation_id: str, body: EndConversation | None) -> Response:
    """Ends the conversation: new items and replies are refused until it is reopened. Answers with the Conversation.

    If the conversation has already ended, nothing changes.
    """
    command = commands.EndConversation(reason=body.reason if body else None)
    return await context.execute(conversation_id, command, conversation_answer)


@command_route(router, "POST", "/v1/conversations/{conversation_id}/reopen", answer=Conversation)
async def reopen_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Makes an ended conversation active again. Answers with the Conversation. If it is already active, nothing changes."""
    return await context.execute(conversation_id, commands.ReopenConversation(), conversation_answer)


@command_route(router, "POST", "/v1/conversations/{conversation_id}/archive", answer=Conversation)
async def archive_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Archives the conversation. Answers with the Conversation. If it is already archived, nothing changes.

    An archived conversation can still be read and written.
    """
    return await context.execute(conversation_id, commands.ArchiveConversation(archived=True), conversation_answer)


@command_route(router, "POST", "/v1/conversations/{conversation_id}/unarchive", answer=Conversation)
async def unarchive_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Takes the conversation out of the archive. Answers with the Conversation. If it is not archived, nothing changes."""
    return await context.execute(conversation_id, commands.ArchiveConversation(archived=False), conversation_answer)


class ConversationDeleted(Struct, frozen=True, kw_only=True, tag_field="object", tag="conversation.deleted"):
    """The receipt of a deletion."""

    id: str
    deleted: bool


@command_route(router, "DELETE", "/v1/conversations/{conversation_id}", answer=ConversationDeleted)
async def delete_conversation(context: CommandContext, conversation_id: str) -> Response:
    """Deletes the conversation. Answers with a receipt.

    Later requests for it are answered with 404. A repeat of this request with the same `Idempotency-Key` gets the receipt again.
    The owner and an admin can still read the audit trail and the contexts of responses. For this they need the scope
    `audit` and a login.
    """
    return await context.execute(conversation_id, commands.DeleteConversation(), _receipt)


def _receipt(appended: Appended) -> bytes:
    return shapes.encode(ConversationDeleted(id=appended.conversation.id, deleted=True))
