"""`retry` in `POST /v1/responses`: tries a failed or stopped reply again, at the same place.

If the reply's input has already joined the conversation, the new input is empty. A partial answer is retracted.
"""

from msgspec.structs import replace

from commands.access import check_may_write
from commands.command_route import CommandContext
from commands.completed_request import CompletedRequest, merged
from commands.item_links import linked
from commands.new_conversations import head_id, leaf_after
from commands.reply_input import TakenInput, TakenItem
from commands.reply_target import ReplyTarget
from commands.response_body import CreateResponse
from context.conversation_settings import settings_at
from context.deleted_content import deleted_items
from context.rendering import renders_transcripts
from domain.commands import NewItem
from domain.errors import ResponseNotFound
from domain.events import InputItem, ItemAppended, Leaf, ReplyCompleted, ReplyEnd, ReplyRequested, joined_ids
from domain.items import as_stored, from_stored, id_prefix
from infrastructure.http.errors import ApiError
from infrastructure.ids import RESPONSE, is_id, mint
from replies.record import Record, find_record


async def find_retried(context: CommandContext, body: CreateResponse, response_id: str) -> CompletedRequest:
    """The request that tries the response again.

    Raises NotAllowed, and ApiError: 404 if the response does not exist, 400 if it cannot be tried again, 409 while
    it runs or waits, or if a summary covers its partial answer.

    The append raises HeadHasMoved if the head has moved since. A retry on a branch does not depend on the head.
    """
    record, end = await _ended_record(context, response_id)
    check_may_write(context, record.conversation_id, record.head)
    has_joined = bool(end.input_ids or end.output_ids)
    if end.output_ids:
        await _check_not_summarized(context, record, end)
    target = await _target(context, record, end)
    remaining = await _remaining_input(context, record)
    taken = [] if has_joined else remaining
    earlier_ids = {stored.item_id for stored in record.requested.input}
    reuses = tuple(entry.new.item_id for entry in taken if entry.new.item_id in earlier_ids)
    target = replace(target, reuses=reuses, alone=target.leaf is not None and bool(reuses))
    return CompletedRequest(merged(body, record.requested), target, TakenInput(taken, is_compared=False))


async def _ended_record(context: CommandContext, response_id: str) -> tuple[Record, ReplyEnd]:
    """Raises ApiError for a reply that cannot be tried again."""
    try:
        if not is_id(response_id, RESPONSE):
            raise ResponseNotFound(response_id[:64])
        record = await find_record(context.dependencies.reader, response_id)
    except ResponseNotFound as error:
        raise ApiError(404, str(error), code=error.code, param="retry") from None
    if record.end is None:
        message = f"Response {response_id} is still in progress: cancel it, or try again when it has ended."
        raise ApiError(409, message, code="response_in_progress", param="retry", retry=True)
    if isinstance(record.end, ReplyCompleted):
        message = f"Response {response_id} has an answer. Only a failed or stopped response can be tried again."
        raise ApiError(400, message, code="response_over", param="retry")
    if renders_transcripts(record.requested.renderer):
        message = f"Response {response_id} was requested with Chat Completions: send its messages again."
        raise ApiError(400, message, code="unsupported_value", param="retry")
    return record, record.end


async def _check_not_summarized(context: CommandContext, record: Record, end: ReplyEnd) -> None:
    """Retracting the partial answer would withdraw the summary. Raises ApiError (409)."""
    reader, conversation_id = context.dependencies.reader, record.conversation_id
    compaction = (await settings_at(reader, conversation_id, record.head.version)).compaction
    if compaction is None:
        return
    events = [recorded.event for recorded in await reader.items(conversation_id, end.output_ids)]
    depths = [event.depth for event in events if isinstance(event, ItemAppended)]
    if depths and min(depths) <= compaction[1].depth:
        message = f"A summary covers the answer of response {record.response_id}. Undo the summary, then try again."
        raise ApiError(409, message, code="answer_is_summarized", param="retry")


async def _target(context: CommandContext, record: Record, end: ReplyEnd) -> ReplyTarget:
    """The place after the question if the question joined, otherwise the place of the failed or stopped reply."""
    target = ReplyTarget(source=record.conversation_id, at=record.head.stream_version, retracts=end.output_ids)
    if isinstance(requested := record.requested, ReplyRequested) and requested.after is not None:
        leaf = await _leaf_after_question(context, record, end) or requested.after
        return replace(target, leaf=leaf, regenerates=requested.regenerates)
    if ids := joined_ids(end):
        return replace(target, expected_head=ids[-1])
    assert record.end_event is not None
    # The reply would have joined the path on which it was requested.
    last_id = await head_id(
        context.dependencies.reader,
        record.conversation_id,
        record.end_event.version,
        path_at=record.request_event.version,
    )
    return replace(target, expected_head=last_id)


async def _leaf_after_question(context: CommandContext, record: Record, end: ReplyEnd) -> Leaf | None:
    """None if the question did not join the conversation."""
    reader, conversation_id = context.dependencies.reader, record.conversation_id
    for row in await reader.items(conversation_id, end.input_ids[-1:]):
        if isinstance(event := row.event, ItemAppended):
            return await leaf_after(reader, conversation_id, event.item_id, event.depth, record.head.version)
    return None


async def _remaining_input(context: CommandContext, record: Record) -> list[TakenItem]:
    """The items of the earlier reply's input that are not deleted.

    Items that joined with another retry are copied, because an item joins at most once. All other items keep their
    ids. Raises ApiError (400) if all items are deleted.
    """
    requested = record.requested
    deleted = await deleted_items(
        context.dependencies.reader, {stored.item_id: stored.copy_of for stored in requested.input}
    )
    if requested.input and len(deleted) == len(requested.input):
        message = f"The input of response {record.response_id} was deleted, so the response cannot be tried again."
        raise ApiError(400, message, code="input_deleted", param="retry")
    rows = await context.dependencies.reader.items(record.conversation_id, [each.item_id for each in requested.input])
    joined = {row.event.item_id for row in rows if isinstance(row.event, ItemAppended)}
    remaining = [(index, each) for index, each in enumerate(requested.input) if each.item_id not in deleted]
    items = linked([_copy(each) if each.item_id in joined else _same(each) for _, each in remaining])
    return [TakenItem(new, from_stored(new.item), index) for (index, _), new in zip(remaining, items, strict=True)]


def _same(stored: InputItem) -> NewItem:
    return NewItem(item_id=stored.item_id, item=stored.item, copy_of=stored.copy_of)


def _copy(stored: InputItem) -> NewItem:
    """The old id is kept like a client's id, so links to the item still find it."""
    item = {**from_stored(stored.item), "id": stored.item_id}
    return NewItem(item_id=mint(id_prefix(item)), item=as_stored(item), copy_of=stored.copy_of or stored.item_id)
