"""POST /v1/conversations/{id}/items: appends items, all of them or none."""

from fastapi import Response

from commands.bodies import Body, Items, new_items
from commands.command_context import CommandContext, items_answer
from commands.command_route import verb
from domain.commands import AppendItems
from infrastructure.http.body import MAX_BATCH_BYTES


class AddItems(Body):
    items: Items


router, serves = verb("POST", "/v1/conversations/{conversation_id}/items", AddItems, largest=MAX_BATCH_BYTES)


@serves
async def add_items(context: CommandContext, conversation_id: str, body: AddItems) -> Response:
    """Answers with the list of what was added. An empty list adds nothing."""
    command = AppendItems(items=new_items(body.items), author=context.principal.subject)
    return await context.carry_out(conversation_id, command, items_answer)
