"""`regenerate` in `POST /v1/responses`: another answer, on a branch beside an earlier answer.

A client may have appended the earlier answer. Such an answer has no response.
"""

from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from commands.access import check_may_write, readable_conversation
from commands.command_route import CommandContext
from commands.completed_request import CompletedRequest, merged
from commands.item_places import ItemPlace, place_of
from commands.readable_items import find_items
from commands.reply_input import TakenInput
from commands.reply_target import ReplyTarget
from commands.response_body import CreateResponse
from context.path_backwards import path_backwards
from context.rendering import renders_transcripts
from domain.errors import ItemNotFound, ResponseNotFound
from domain.events import REPLY_ENDS, ItemAppended, Leaf, ReplyCompleted
from domain.items import from_stored, is_answer
from domain.paths import PathSegment
from infrastructure.http.errors import ApiError
from infrastructure.http.path_ids import check_id
from infrastructure.ids import CONVERSATION, RESPONSE, is_id
from replies.record import Record, find_record
from replies.response_from_events import Request


class _Answer(Struct, frozen=True, kw_only=True):
    """An answer, as it was found by the id that the request names.

    `conversation_id`: where the answer was added. A fork may inherit the answer. `item_ids`: only the named item if it
    is not the output of a response. `is_answer`: whether a model writes such items. `has_response`: False if a client
    appended it.
    """

    conversation_id: str
    item_ids: tuple[str, ...]
    is_answer: bool = True
    has_response: bool = True
    requested: Request | None = None


async def find_regenerated(context: CommandContext, body: CreateResponse, named_id: str) -> CompletedRequest:
    """The request for another answer. `named_id`: the id of a response, or of an item of an answer.

    Raises ConversationNotFound, NotAllowed, and ApiError: 404 for an unknown id, 409 while the response runs or
    waits, 400 if there is no answer, or nothing before it.
    """
    if is_id(named_id, RESPONSE):
        answer = await _of_response(context, named_id)
    else:
        answer = await _of_item(context, named_id, is_inheritable=body.conversation_id is not None)
    conversation_id = answer.conversation_id
    if body.conversation_id is not None:
        conversation_id = check_id(body.conversation_id, CONVERSATION, "conversation")
    head = await readable_conversation(context, conversation_id)
    check_may_write(context, conversation_id, head)
    leaf = await _leaf(context, conversation_id, head.version, answer, named_id)
    if not answer.is_answer:
        raise _refused(f"Item {named_id} is no answer of a model. Revise it, or regenerate the answer to it.")
    if leaf.depth == 0:
        raise _refused(f"No item lies before the answer {named_id}, so there is nothing to answer.")
    target = ReplyTarget(source=conversation_id, at=head.stream_version, leaf=leaf, regenerates=named_id)
    return CompletedRequest(merged(body, answer.requested), target, TakenInput([], is_compared=False))


async def _of_response(context: CommandContext, response_id: str) -> _Answer:
    record = await _record(context, response_id)
    if record is None:
        raise _not_found(response_id)
    if record.end is None:
        message = f"Response {response_id} is still in progress: cancel it, or try again when it has ended."
        raise ApiError(409, message, code="response_in_progress", param="regenerate", retry=True)
    if not record.end.output_ids:
        can_be_retried = not isinstance(record.end, ReplyCompleted) and _repeatable(record) is not None
        advice = " Use `retry` to try it again." if can_be_retried else ""
        raise _refused(f"Response {response_id} has no answer in its conversation.{advice}")
    return _Answer(
        conversation_id=record.conversation_id, item_ids=record.end.output_ids, requested=_repeatable(record)
    )


async def _of_item(context: CommandContext, item_id: str, *, is_inheritable: bool) -> _Answer:
    """The answer that has the item.

    `is_inheritable`: also finds an item that the caller may not read, because a fork can inherit it.
    """
    items = await find_items(context, [item_id] if is_id(item_id) else [])
    found = (items.existing if is_inheritable else items.readable).get(item_id)
    if found is None or not isinstance(event := found.event, ItemAppended):
        raise _not_found(item_id)
    answer = _Answer(
        conversation_id=found.conversation_id,
        item_ids=(item_id,),
        is_answer=is_answer(from_stored(event.item)),
        has_response=event.response_id is not None,
    )
    if event.response_id is None:
        return answer
    rows = await context.dependencies.reader.items(found.conversation_id, [event.response_id])
    output_ids = next((row.event.output_ids for row in rows if isinstance(row.event, REPLY_ENDS)), ())
    if item_id not in output_ids:
        return answer
    return replace(answer, item_ids=output_ids, requested=_repeatable(await _record(context, event.response_id)))


async def _record(context: CommandContext, response_id: str) -> Record | None:
    try:
        return await find_record(context.dependencies.reader, response_id)
    except ResponseNotFound:
        return None


def _repeatable(record: Record | None) -> Request | None:
    """None without a record, or for a chat completion, because its parameters belong to another API."""
    return None if record is None or renders_transcripts(record.requested.renderer) else record.requested


async def _leaf(context: CommandContext, conversation_id: str, version: int, answer: _Answer, named_id: str) -> Leaf:
    """The place before the answer. Its deleted items are skipped. Raises ApiError (404) if the named item or all are deleted."""
    found = {item_id: await _find_place(context, conversation_id, version, item_id) for item_id in answer.item_ids}
    first = next((each for each in found.values() if each is not None), None)
    if first is None or found.get(named_id, first) is None:
        raise _not_found(named_id)
    leaf = first.parent
    if answer.has_response:
        return leaf
    return await _before_answer(context, PathSegment(conversation_id, version, leaf.path), leaf)


async def _find_place(context: CommandContext, conversation_id: str, version: int, item_id: str) -> ItemPlace | None:
    try:
        return await place_of(context, conversation_id, version, item_id)
    except ItemNotFound:
        return None


async def _before_answer(context: CommandContext, end: PathSegment, leaf: Leaf) -> Leaf:
    """The place before an answer that a client appended. Looks only at the first page of earlier items."""
    page = await anext(path_backwards(context.dependencies.reader, end), None)
    items = page.items if page is not None else []
    earlier = list(takewhile(lambda event: event.response_id is None and is_answer(from_stored(event.item)), items))
    if not earlier:
        return leaf
    return (await place_of(context, end.conversation_id, end.version, earlier[-1].item_id)).parent


def _not_found(named_id: str) -> ApiError:
    if is_id(named_id, RESPONSE):
        error = ResponseNotFound(named_id)
        return ApiError(404, str(error), code=error.code, param="regenerate")
    return ApiError(404, f"Item with id {named_id[:64]!r} not found.", code="item_not_found", param="regenerate")


def _refused(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param="regenerate")
