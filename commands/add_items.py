"""POST /v1/conversations/{id}/items: appends items, all of them or none."""

from typing import Annotated

from fastapi import Query, Response

from commands.bodies import Body, Items, new_items
from commands.carry_out import Called, items_answer
from domain.commands import AppendItems
from infrastructure.http.app import strict_router
from infrastructure.http.paths import ConversationId

router = strict_router("items")


class AddItems(Body):
    items: Items


@router.post("/v1/conversations/{conversation_id}/items")
async def add_items(
    conversation_id: ConversationId,
    body: AddItems,
    called: Called,
    _include: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> Response:
    """Answers with the list of what was added. An empty list adds nothing."""
    command = AppendItems(items=new_items(body.items), author=called.principal.subject)
    return await called.carry_out(conversation_id, command, items_answer)
