"""POST /v1/conversations: begins a conversation, with its first items if there are any."""

from fastapi import Response

from commands.bodies import Body, Instructions, Items, Metadata, Policy, Title, new_items
from commands.command_context import Caller, conversation_answer
from commands.command_route import verb
from domain.commands import StartConversation
from domain.events import ContextPolicy
from infrastructure.http.body import LARGEST_BATCH
from infrastructure.ids import CONVERSATION, mint


class CreateConversation(Body):
    items: Items | None = None
    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


router, serves = verb("POST", "/v1/conversations", CreateConversation, largest=LARGEST_BATCH)


@serves
async def create_conversation(called: Caller, body: CreateConversation) -> Response:
    """Answers with the Conversation."""
    conversation_id = mint(CONVERSATION)
    command = StartConversation(
        conversation_id=conversation_id,
        tenant=called.principal.tenant,
        owner=called.principal.subject,
        title=body.title,
        instructions=body.instructions,
        metadata=body.metadata or {},
        context_policy=body.context_policy.as_event() if body.context_policy else ContextPolicy(),
        items=new_items(body.items or []),
    )
    return await called.carry_out(conversation_id, command, conversation_answer)
