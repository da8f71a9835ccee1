"""POST /v1/conversations/{id}/compact: a model writes a summary of all but the newest turns, which models are shown from now on."""

from typing import Annotated

from fastapi import Response
from pydantic import StringConstraints

from commands.bodies import Body, Instructions
from commands.command_context import Caller
from commands.command_route import verb
from commands.summarize import summarize
from context.assembly import Asked
from domain.errors import ConversationNotFound, NothingToCompact
from domain.events import ContextCompacted
from infrastructure.event_log.append_request import Appended
from infrastructure.event_log.log import utc_now
from infrastructure.http import shapes
from infrastructure.http.headers import placed


class CompactConversation(Body):
    """`model` writes the summary; `instructions` say what else it should mind."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    instructions: Instructions | None = None


router, serves = verb("POST", "/v1/conversations/{conversation_id}/compact", CompactConversation, optional=True)


@serves
async def compact_conversation(called: Caller, conversation_id: str, body: CompactConversation | None) -> Response:
    """Answers with the compaction. The turns that fit in half the budget stay as they are; every item stays readable."""
    wiring, tenant = called.wiring, called.principal.tenant
    if called.idempotency is not None:
        first = await wiring.reader.first_answer(tenant, called.idempotency, since=utc_now() - wiring.keep_keys)
        if first is not None:
            headers = {**placed(first.position, first.version), "idempotent-replayed": "true"}
            return shapes.json_response(first.answer, headers=headers)
    head = await wiring.reader.head(conversation_id)
    if head is None or head.deleted or head.tenant != tenant:
        raise ConversationNotFound(conversation_id)
    body = body or CompactConversation()
    asked = Asked(
        model=body.model or await wiring.model.default_model(called.principal.tenant), parameters={}, open=True
    )
    chosen = await wiring.contexts.chosen(tenant, conversation_id, head.version, asked)
    command = await summarize(
        called, conversation_id, chosen, asked, limit=chosen.budget, instructions=body.instructions
    )
    if command is None:
        raise NothingToCompact(conversation_id)
    return await called.carry_out(conversation_id, command, _compaction)


def _compaction(appended: Appended) -> bytes:
    [event] = appended.events
    assert isinstance(event, ContextCompacted)
    return shapes.encode(
        {
            "object": "conversation.compaction",
            "id": event.compaction_id,
            "summary": event.summary,
            "from": event.first,
            "to": event.last,
            "count": event.count,
            "tokens_before": event.tokens_before,
            "tokens_after": event.tokens_after,
            "model": event.model,
        }
    )
