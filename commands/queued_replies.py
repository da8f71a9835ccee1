"""Replies that wait for their turn (`on_busy`)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from commands.command_route import CommandContext, ProcessDependencies
from commands.repeat_request import repeat_stored
from commands.rolling_summary import context_with_summary
from commands.start_reply import Reply, append_unless_repeated
from commands.unsent_input import check_outputs
from context.choice import ReplyRequest
from context.deleted_content import deleted_items
from context.rendering import uses_responses_api
from domain.commands import QueueReply, RequestReply
from domain.errors import ConversationNotFound, HistoryLost, ItemsDeleted, PathHasChanged, ResponseNotFound
from domain.events import ContextPolicy, ReplyQueued
from domain.items import from_stored
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended
from infrastructure.http.errors import ApiError
from infrastructure.ids import mint
from infrastructure.limits.allowance import Allowance
from replies.leases import Orphan, ReplyLeases
from replies.queued_reply import QueuedReply, ReplyToRun, read_queue_state
from replies.record import read_record
from replies.response_from_events import is_background
from replies.running_reply import request_of

MAX_TRIES = 10

log = structlog.get_logger(__name__)


async def queue_reply(context: CommandContext, command: QueueReply, conversation_id: str) -> Reply:
    """Records that the reply waits, and starts the task that waits. A repeat gets the reply of the first request.

    Raises what `append_unless_repeated` raises.
    """
    queued = await append_unless_repeated(context, command, conversation_id)
    return _wait(context, command, conversation_id, queued) if isinstance(queued, Appended) else queued


def _wait(context: CommandContext, command: QueueReply, conversation_id: str, queued: Appended) -> QueuedReply:
    """Starts the task that waits. `If-Match` and the idempotency key were used when the reply was queued."""
    dependencies = context.dependencies
    reply = QueuedReply(
        dependencies.reply_services,
        dependencies.reply_queue,
        principal=context.principal,
        request_id=context.request_id,
        command=command,
        conversation_id=conversation_id,
        queued=queued,
        request=partial(_request, replace(context, if_match=None, idempotency=None), command, conversation_id),
        outlives_process=_outlives_process(command, queued.conversation.context_policy),
        spend=context.allowance.spend,
    )
    context.allowance.end_with(dependencies.active_replies.start(reply))
    return reply


async def _request(context: CommandContext, queued: QueueReply, conversation_id: str) -> ReplyToRun:
    """Requests a reply whose turn has come, without input items that were deleted meanwhile."""
    reader, parameters = context.dependencies.reader, msgspec.json.decode(queued.parameters)
    cache_key = await _cache_key(context, parameters, conversation_id)
    for _ in range(MAX_TRIES):
        head = await reader.readable_head(conversation_id)
        if head is None:
            raise ConversationNotFound(conversation_id)
        copies = {item.item_id: item.copy_of for item in queued.input if item.copy_of is not None}
        deleted = await deleted_items(reader, copies)
        items = tuple(item for item in queued.input if item.item_id not in deleted)
        if queued.input and not items:
            message = "Every item that `input` refers to was deleted before the response had its turn."
            raise ApiError(404, message, code="item_not_found", param="input")
        reply_request = ReplyRequest(
            model=queued.model,
            parameters=parameters,
            input=[(item.item_id, from_stored(item.item)) for item in items],
            cache_key=cache_key,
        )
        _, model_context = await context_with_summary(
            context, conversation_id, head.stream_version, reply_request, has_turn=True
        )
        check_outputs(reply_request, model_context)
        command = RequestReply(
            response_id=queued.response_id,
            model=queued.model,
            parameters=queued.parameters,
            input=items,
            shown=model_context.shown,
            queued=True,
        )
        try:
            await context.append(conversation_id, command)
        except (ItemsDeleted, PathHasChanged, HistoryLost):
            continue
        return ReplyToRun(command, model_context.body, repeat_stored(context, conversation_id, reply_request))
    message = "The conversation kept changing while the request was prepared."
    raise ApiError(409, message, code="conversation_changed")


async def _cache_key(context: CommandContext, parameters: Mapping[str, Any], conversation_id: str) -> str | None:
    if "prompt_cache_key" in parameters or not uses_responses_api(context.dependencies.models.renderer):
        return None
    return await context.dependencies.contexts.family(conversation_id)


def _outlives_process(command: QueueReply, policy: ContextPolicy) -> bool:
    return is_background(request_of(command)) or policy.on_disconnect == "finish"


async def take_over(dependencies: ProcessDependencies, leases: ReplyLeases, orphan: Orphan) -> bool:
    """Takes over a reply whose process died, if the reply still waits and may outlive its process.

    False: the caller should end the reply. True: this or another process has taken over the reply, or the reply
    has just ended.
    Raises psycopg.Error, and what EventLog.append raises.
    """
    reader = dependencies.reader.of_tenant(orphan.tenant)
    try:
        record = await read_record(reader, orphan.conversation_id, orphan.response_id)
    except ResponseNotFound:
        return False
    event = record.requested
    if record.end is not None or not isinstance(event, ReplyQueued):
        return False
    principal = Principal(orphan.tenant, record.request_event.subject, frozenset({"read", "write", "reply"}))
    request_id = mint("req")
    queued = await read_queue_state(dependencies.log, principal, orphan.conversation_id, request_id)
    command = QueueReply(**{name: getattr(event, name) for name in QueueReply.__struct_fields__})
    if not _outlives_process(command, queued.conversation.context_policy):
        return False
    if await leases.claim(orphan):
        context = CommandContext(
            dependencies=dependencies.of(principal),
            principal=principal,
            allowance=Allowance(dependencies.limiter, principal),
            request_id=request_id,
            if_match=None,
            idempotency=None,
            disconnected=_never,
        )
        _wait(context, command, orphan.conversation_id, queued)
        log.info("queued_reply_taken_over", response_id=orphan.response_id)
    return True


async def _never() -> None:
    raise AssertionError("A reply that was taken over has no client.")
