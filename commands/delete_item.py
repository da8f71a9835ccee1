"""DELETE /v1/conversations/{id}/items/{item}: the item is no longer shown, to people or models; the log keeps it."""

from fastapi import Response

from commands.carry_out import Called, conversation_answer
from domain.commands import RetractItem
from infrastructure.http.app import strict_router
from infrastructure.http.paths import ConversationId, ItemId

router = strict_router("items")


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(conversation_id: ConversationId, item_id: ItemId, called: Called) -> Response:
    """Answers with the Conversation, as the OpenAI API does."""
    return await called.carry_out(conversation_id, RetractItem(item_id=item_id), conversation_answer)
