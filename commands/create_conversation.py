"""POST /v1/conversations: begins a conversation, with its first items if there are any."""

from fastapi import Response

from commands.bodies import Body, Instructions, Items, Metadata, Policy, Title, new_items
from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import StartConversation
from domain.events import ContextPolicy
from infrastructure.http.body import MAX_BATCH_BYTES
from infrastructure.ids import CONVERSATION, mint


class CreateConversation(Body):
    items: Items | None = None
    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


router, serves = verb("POST", "/v1/conversations", CreateConversation, largest=MAX_BATCH_BYTES)


@serves
async def create_conversation(context: CommandContext, body: CreateConversation) -> Response:
    """Answers with the Conversation."""
    conversation_id = mint(CONVERSATION)
    command = StartConversation(
        conversation_id=conversation_id,
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        title=body.title,
        instructions=body.instructions,
        metadata=body.metadata or {},
        context_policy=body.context_policy.as_event() if body.context_policy else ContextPolicy(),
        items=new_items(body.items or []),
    )
    return await context.carry_out(conversation_id, command, conversation_answer)
