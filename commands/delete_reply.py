"""Deletes a reply, as a response or as a chat completion."""

from collections.abc import Callable

from starlette.responses import Response

from commands.command_route import CommandContext
from domain.commands import DeleteReply
from domain.errors import ConversationNotFound, ReplyIsOver, ResponseNotFound
from domain.events import REPLY_ENDS, joined_ids
from infrastructure.event_log.append_request import Appended
from infrastructure.event_log.reader import PrincipalReader


async def delete_reply(context: CommandContext, response_id: str, receipt: bytes) -> Response:
    """Deletes the response. A reply that runs or waits is stopped. Raises ResponseNotFound."""
    conversation_id = await context.dependencies.reader.conversation_of(response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)

    def answer(_: Appended) -> bytes:
        return receipt

    try:
        response = await _delete(context, conversation_id, response_id, answer)
    except ReplyIsOver:  # the reply has ended since its items were read
        response = await _delete(context, conversation_id, response_id, answer)
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error
    context.dependencies.active_replies.stop_deleted(response_id)
    await context.dependencies.reply_services.live.remove(response_id)
    return response


async def _delete(
    context: CommandContext, conversation_id: str, response_id: str, answer: Callable[[Appended], bytes]
) -> Response:
    item_ids = await _items_of(context.dependencies.reader, conversation_id, response_id)
    return await context.execute(conversation_id, DeleteReply(response_id=response_id, item_ids=item_ids), answer)


async def _items_of(reader: PrincipalReader, conversation_id: str, response_id: str) -> tuple[str, ...]:
    for recorded in await reader.items(conversation_id, [response_id]):
        if isinstance(end := recorded.event, REPLY_ENDS):
            return joined_ids(end)
    return ()
