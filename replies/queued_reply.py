"""A reply that waits for its turn in its conversation, and then runs.

The reply's process reads the queue again when the conversation changes, or after CHECK_SECONDS. The context
is assembled when the turn comes, so the model sees the replies that ran before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
import structlog
from msgspec import Struct

from context.inlined_contents import RequestBody
from domain.commands import QueueReply, ReadQueueState, RequestReply
from domain.errors import ConversationLocked, ModelFailed, Refused, ReplyIsOver, ReplyLost, ResponseNotFound
from infrastructure.access.principal import Principal
from infrastructure.cancellation import raise_if_cancelled
from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.conversation_watch import ConversationWatch
from infrastructure.event_log.log import EventLog
from infrastructure.http.errors import ApiError, reported
from infrastructure.ids import mint_uuid
from replies import stream_events
from replies.record import is_lost, read_record
from replies.repeat import RepeatOf
from replies.reply_end import StopReason
from replies.running_reply import ReplyServices, RunningReply, request_of

CHECK_SECONDS = 10.0

RETRY_SECONDS = 1.0

MAX_RETRIES = 60
"""After more failures in a row the reply fails, so that the replies behind it get their turn."""

INTERRUPT_TIMEOUT_SECONDS = 30.0

log = structlog.get_logger(__name__)


class ReplyToRun(Struct, frozen=True):
    """A reply whose turn has come. `command`: the recorded command. `body`: the request to the provider."""

    command: RequestReply
    body: RequestBody
    repeat: RepeatOf


class ReplyQueue(Struct, frozen=True):
    """What a queued reply needs while it waits. `cancel` takes (tenant, response id)."""

    watch: ConversationWatch
    cancel: Callable[[str, str], Awaitable[None]]


class QueuedReply(RunningReply):
    """A reply that waits for its turn, and then runs.

    `request`: assembles the context and requests the reply. Raises ConversationLocked if it is not the reply's turn.
    `outlives_process`: whether another process waits for the turn if this process stops or dies.
    """

    def __init__(
        self,
        services: ReplyServices,
        queue: ReplyQueue,
        *,
        principal: Principal,
        request_id: str,
        command: QueueReply,
        conversation_id: str,
        queued: Appended,
        request: Callable[[], Awaitable[ReplyToRun]],
        outlives_process: bool,
        spend: Callable[[int], None],
    ) -> None:
        super().__init__(
            services,
            principal=principal,
            request_id=request_id,
            command=command,
            body={},
            conversation_id=conversation_id,
            requested=queued,
            spend=spend,
        )
        self._queue = queue
        self._reader = services.reader.of_tenant(principal.tenant)
        self._in_conversation = conversation_id
        self._interrupts = command.interrupts
        self._request = request
        self._outlives_process = outlives_process
        self._waits = True
        self._leaves = False

    def stop(self, reason: StopReason) -> None:
        """A waiting reply leaves the queue. When the process stops, a reply that outlives the process stays in the
        queue.
        """
        if self._waits and reason == "server_stopped" and self._outlives_process:
            self._leaves = True
        super().stop(reason)

    def stop_lost(self) -> None:
        """A waiting reply stays in the queue, because another process may have taken it over."""
        self._leaves = self._leaves or self._waits
        super().stop_lost()

    async def _answer(self) -> None:
        try:
            self._open()
            if self._stop_reason is not None:
                raise asyncio.CancelledError
            turn = await self._wait_for_turn()
        except asyncio.CancelledError:
            self._ending = True
            await self._stop_waiting()
        except ReplyIsOver:
            self._ending = True
            await self._end_as_recorded()
        except Exception as error:  # noqa: BLE001 - after any error, the replies behind this one must get their turn
            self._ending = True
            # The recorded message must not contain content. Only messages of Refused are safe.
            message = (
                str(error) if isinstance(error, Refused) else "The response could not be started when its turn came."
            )
            await self._fail(ModelFailed(reported(error).code or "refused", message), error)
        else:
            self._waits = False
            self._requested, self._body, self._repeat_of = request_of(turn.command), turn.body, turn.repeat
            self._started_at = time.perf_counter()
            await super()._answer()

    async def _wait_for_turn(self) -> ReplyToRun:
        """Raises ReplyIsOver if the reply no longer waits."""
        give_up_at = time.monotonic() + INTERRUPT_TIMEOUT_SECONDS
        retries = 0
        while True:
            raise_if_cancelled()
            try:
                seen = await self._reader.head(self._in_conversation)
                if (turn := await self._request_if_first(give_up_at)) is not None:
                    return turn
                retries = 0
            except ConversationLocked:
                continue
            except (psycopg.Error, LogBusy, LogUnavailable) as error:
                retries += 1
                if retries > MAX_RETRIES or (isinstance(error, LogUnavailable) and error.outcome_unknown):
                    raise
                log.warning("turn_delayed", response_id=self.response_id, error_type=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            with self._queue.watch.change(self._in_conversation, seen) as change:
                await asyncio.wait({change}, timeout=CHECK_SECONDS)
                if change.cancelled() and self._outlives_process:  # the process is about to stop
                    self.stop("server_stopped")

    async def _request_if_first(self, give_up_at: float) -> ReplyToRun | None:
        """Returns None if it is not the reply's turn.

        Raises ReplyIsOver. An interrupting reply raises ApiError (503) if the running reply still runs after
        `give_up_at`.
        """
        state = (
            await read_queue_state(self._services.log, self._principal, self._in_conversation, self._request_id)
        ).conversation
        if self.response_id not in state.queued:
            raise ReplyIsOver(self.response_id)
        if state.queued[0] != self.response_id:
            return None
        if not state.at_head:
            return await self._request()
        if self._interrupts:
            if time.monotonic() > give_up_at:
                message = "The response that was to be interrupted did not stop in time."
                raise ApiError(503, message, code="response_in_progress", retry=False)
            for response_id in state.at_head:
                await self._queue.cancel(self._principal.tenant, response_id)
        return None

    async def _stop_waiting(self) -> None:
        if self._leaves:
            message = "This process no longer has the response. Another one may continue it: read it with GET."
            self._end_with_error(ApiError(503, message, code="response_in_progress", retry=False))
        else:
            await self._end_stopped()

    async def _end_as_recorded(self) -> None:
        """Shows clients the end that the log has, or an error if the reply was deleted, taken over or lost."""
        try:
            record = await read_record(self._reader, self._in_conversation, self.response_id)
        except ResponseNotFound as error:
            self._on_record = False
            lost = await is_lost(self._reader, self._in_conversation, self.response_id)
            self._end_with_error(ReplyLost(self.response_id) if lost else error)
            return
        if record.end is None:
            self._leaves = True
            await self._stop_waiting()
            return
        self._response = record.response(), {}
        self._emit(stream_events.ended(record.status, self._response[0]))


async def read_queue_state(
    events_log: EventLog, principal: Principal, conversation_id: str, request_id: str
) -> Appended:
    """Reads the conversation's state with a command that appends nothing.

    Raises Refused, LogBusy, or LogUnavailable (`outcome_unknown` is False).
    """
    request = AppendRequest(
        principal=principal,
        conversation_id=conversation_id,
        command=ReadQueueState(),
        command_id=mint_uuid(),
        correlation_id=request_id,
    )
    try:
        return await events_log.append(request)
    except LogUnavailable as error:
        raise LogUnavailable(outcome_unknown=False) from error
