"""POST /v1/conversations/{id}: describes a conversation anew. What a request does not name stays as it is."""

from fastapi import Response
from msgspec import UNSET

from commands.bodies import Body, Instructions, Metadata, Policy, Title
from commands.command_context import CommandContext, conversation_answer
from commands.command_route import verb
from domain.commands import DescribeConversation
from domain.events import ContextPolicy


class UpdateConversation(Body):
    """`metadata` replaces all there was; null clears a field."""

    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


router, serves = verb("POST", "/v1/conversations/{conversation_id}", UpdateConversation)


@serves
async def update_conversation(context: CommandContext, conversation_id: str, body: UpdateConversation) -> Response:
    """Answers with the Conversation."""
    named = body.model_fields_set
    policy = body.context_policy.as_event() if body.context_policy else ContextPolicy()
    command = DescribeConversation(
        metadata=(body.metadata or {}) if "metadata" in named else UNSET,
        title=body.title if "title" in named else UNSET,
        instructions=body.instructions if "instructions" in named else UNSET,
        context_policy=policy if "context_policy" in named else UNSET,
    )
    return await context.carry_out(conversation_id, command, conversation_answer)
