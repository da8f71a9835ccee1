"""POST /v1/conversations/{id}/items: appends items, all of them or none."""

from fastapi import Response

from commands.bodies import Body, Items, new_items
from commands.command_context import Caller, items_answer
from commands.command_route import verb
from domain.commands import AppendItems
from infrastructure.http.body import LARGEST_BATCH


class AddItems(Body):
    items: Items


router, serves = verb("POST", "/v1/conversations/{conversation_id}/items", AddItems, largest=LARGEST_BATCH)


@serves
async def add_items(called: Caller, conversation_id: str, body: AddItems) -> Response:
    """Answers with the list of what was added. An empty list adds nothing."""
    command = AppendItems(items=new_items(body.items), author=called.principal.subject)
    return await called.carry_out(conversation_id, command, items_answer)
