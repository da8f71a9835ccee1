"""A reply while it runs: the provider's stream becomes the reply's own stream of events, and its end is appended to the log.

Clients read the events at their own pace; the provider never waits for them. The event that ends the stream is sent after the
end is committed. However a reply ends, the output that had arrived is kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import structlog
from msgspec import Struct

from context.models import Models
from context.tokens import count_off_loop
from domain.commands import CancelReply, CompleteReply, FailReply, InterruptReply, NewItem, RequestReply
from domain.errors import ConversationNotFound, ModelFailed, ReplyIsOver, ResponseNotFound
from domain.events import ReplyRequested, Timing, Usage
from domain.items import as_output
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.http.errors import as_api_error
from infrastructure.http.headers import command_headers
from infrastructure.ids import mint_uuid
from infrastructure.observability.metrics import Metrics
from replies import stream_events
from replies.live_events import LiveWriter
from replies.output import Output
from replies.provider.stream_parts import Finished
from replies.record import Record
from replies.record_reply_end import EndReply, record_reply_end
from replies.response_from_events import INTERRUPTIONS, opening_events, response_of
from replies.response_object import INCOMPLETE_REASONS, Status

if TYPE_CHECKING:  # scripts import the commands' bodies, and need not wait for the provider's client to load
    from replies.provider.provider import ModelProvider

log = structlog.get_logger(__name__)

StopReason = Literal["client_closed", "server_stopped", "cancelled"]


class ReplyServices(Struct, frozen=True, kw_only=True):
    """What every running reply of a process uses; `main.py` makes it."""

    log: EventLog
    reader: EventReader
    provider: "ModelProvider"
    models: Models
    live: LiveWriter
    metrics: Metrics


class RunningReply:
    """A requested reply. Call `start` once. Any number of clients may call `response` and `stream`, at any time.

    `command` is what was requested, `body` the request to the provider. Without `requested` the reply is not stored: nothing of
    it goes into the log, and it has no conversation.
    """

    def __init__(
        self,
        services: ReplyServices,
        *,
        principal: Principal,
        request_id: str,
        command: RequestReply,
        body: Mapping[str, Any],
        conversation_id: str | None = None,
        requested: Appended | None = None,
    ) -> None:
        self.response_id = command.response_id
        self.stored = requested is not None
        self.headers = {} if requested is None else command_headers(requested)
        """The headers that its stream, or its queued Response, is sent with."""
        self._services = services
        self._principal = principal
        self._request_id = request_id
        self._conversation_id = conversation_id
        self._command = command
        self._requested = ReplyRequested(
            response_id=command.response_id,
            model=command.model,
            parameters=command.parameters,
            input=command.input,
            shown=command.shown,
        )
        self._body = body
        self._output = Output()
        self._started_at = time.perf_counter()
        self._first_part_at: float | None = None
        self._events: list[bytes] = []
        self._readable = 0
        """How many of the events clients may see: those that Redis has."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._entered = False
        self._stop_reason: StopReason | None = None
        self._ending = False
        self._ended = False
        self._response: tuple[bytes, dict[str, str]] | None = None
        self._failure: Exception | None = None
        self._error_event: bytes | None = None

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.perf_counter() - self._started_at

    def start(self) -> "asyncio.Task[None]":
        """Runs it in a task that ends when the reply's end is in the log, even if the client has gone."""
        self._task = asyncio.create_task(self._run())
        return self._task

    def stop(self, reason: StopReason) -> None:
        """Stops the provider and keeps the output so far. Does nothing once the reply is ending."""
        if self._ending:
            return
        self._stop_reason = reason
        if self._task is not None and self._entered:
            self._task.cancel()

    def queued_response(self) -> bytes:
        """The Response that a request with `background` is answered with."""
        return response_of(self._requested, self._conversation_id, "queued")

    async def response(self) -> tuple[bytes, dict[str, str]]:
        """The Response once it has ended, and its headers. Raises ModelFailed if it failed, or what kept the end from being appended."""
        while not self._ended:
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        assert self._response is not None
        return self._response

    async def stream(self) -> AsyncIterator[bytes]:
        """The reply's server-sent events from the first on. Errors are events too: nothing is raised."""
        position = 0
        while True:
            if position < self._readable:
                rest = self._events[position : self._readable]
                position += len(rest)
                yield b"".join(rest)
            elif self._ended and position == len(self._events):
                if self._error_event is not None:
                    yield self._error_event
                return
            else:
                await self._changed.wait()

    async def _run(self) -> None:
        self._entered = True
        try:
            await self._answer()
        except Exception as error:
            self._end_with_error(error)  # as it no longer runs here, it will be found and marked interrupted
            raise
        finally:
            self._ended = True
            self._notify()

    async def _answer(self) -> None:
        """From the first event to the end in the log."""
        try:
            for event in opening_events(self._requested, self._conversation_id):
                self._emit(event)
            if self._stop_reason is not None:
                raise asyncio.CancelledError
            finished = await self._read_provider()
            self._ending = True
            await self._complete(finished)
        except asyncio.CancelledError:
            self._ending = True
            await self._stop_early(self._stop_reason or "server_stopped")
        except ModelFailed as failure:
            self._ending = True
            await self._fail(failure)
        except Exception as error:
            self._ending = True
            log.exception("reply_crashed", response_id=self.response_id)
            await self._fail(ModelFailed("internal_error", "Something went wrong here."), error)

    async def _read_provider(self) -> Finished:
        finished = Finished("stop")
        async for part in self._services.provider.stream(self._body):
            if self._first_part_at is None:
                self._first_part_at = time.perf_counter()
            if isinstance(part, Finished):
                finished = part
                continue
            for event in self._output.add(part):
                self._emit(event)
        return finished

    def _emit(self, event: stream_events.StreamEvent) -> None:
        """Adds the event to the stream, here and in Redis, where other processes read it."""
        sequence = len(self._events)
        encoded = stream_events.encode(event, sequence)
        self._events.append(encoded)
        if self.stored:
            self._services.live.write(self.response_id, sequence, encoded, self._make_readable)
        else:
            self._make_readable(sequence)

    def _make_readable(self, sequence: int) -> None:
        """Redis has the events up to this one, or is unavailable: clients may see them."""
        self._readable = max(self._readable, sequence + 1)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _complete(self, finished: Finished) -> None:
        """Appends the reply's end, with which its items join the conversation."""
        reason = INCOMPLETE_REASONS.get(finished.finish_reason)
        status: Status = "incomplete" if reason else "completed"
        for event in self._output.finish(status):
            self._emit(event)
        ended_at = time.perf_counter()
        usage = finished.usage or await self._count_usage()
        model = finished.model or self._command.model
        cost = self._services.models.cost(model, usage)
        command = CompleteReply(
            response_id=self.response_id,
            model=model,
            author=self._principal.subject,
            input=self._command.input,
            output=tuple(NewItem(item_id=kept.item_id, item=kept.item) for kept in self._output.items()),
            usage=usage,
            finish_reason=finished.finish_reason,
            timing=Timing(
                first_ms=round(((self._first_part_at or ended_at) - self._started_at) * 1000),
                total_ms=round((ended_at - self._started_at) * 1000),
            ),
            delta_lengths=self._output.delta_lengths,
            cost=cost,
        )
        await self._end(command, status, {"model": model, "usage": usage, "incomplete_reason": reason, "cost": cost})
        metrics = self._services.metrics
        metrics.reply_tokens.labels("input").inc(usage.input_tokens)
        metrics.reply_tokens.labels("output").inc(usage.output_tokens)

    async def _fail(self, failure: ModelFailed, error: Exception | None = None) -> None:
        """`error`: what to raise for clients, where it is not the failure."""
        log.warning("reply_failed", response_id=self.response_id, code=failure.code)
        self._failure = error or failure
        command = FailReply(
            response_id=self.response_id,
            code=failure.code,
            message=failure.message,
            output=self._output.items(),
            delta_lengths=self._output.delta_lengths,
        )
        await self._end(command, "failed", {"error": {"code": failure.code, "message": failure.message}})

    async def _stop_early(self, reason: StopReason) -> None:
        output, lengths = self._output.items(), self._output.delta_lengths
        if reason == "cancelled":
            cancel = CancelReply(response_id=self.response_id, output=output, delta_lengths=lengths)
            await self._end(cancel, "cancelled", {})
            return
        command = InterruptReply(response_id=self.response_id, code=reason, output=output, delta_lengths=lengths)
        await self._end(command, "incomplete", {"error": {"code": reason, "message": INTERRUPTIONS[reason]}})

    async def _end(self, command: EndReply, status: Status, facts: dict[str, Any]) -> None:
        """Appends the end, however long that takes, and then sends the event that ends the stream."""
        facts = {"output": [as_output(kept.item_id, kept.item) for kept in command.output], **facts}
        metrics = self._services.metrics
        metrics.replies.labels(status).inc()
        metrics.reply_seconds.observe(self.seconds)
        if self._conversation_id is None:
            self._emit_end(status, {**facts, "completed_at": time.time()}, {})
            return
        request = AppendRequest(
            principal=self._principal,
            conversation_id=self._conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=self._request_id,
            size=command_bytes(command),
        )
        services = self._services
        try:
            appended = await record_reply_end(services.log, services.reader, request, self._report_delay)
        except (ConversationNotFound, ReplyIsOver, ResponseNotFound) as refused:
            # The conversation was deleted, or another process took this one for dead and ended the reply. That end stays.
            log.warning("reply_already_ended", response_id=self.response_id, code=refused.code)
            self._end_with_error(refused)
            return
        if isinstance(appended, Record):
            self._response = appended.response(), {}
            self._emit(stream_events.ended(appended.status, self._response[0]))
            return
        completed_at = appended.recorded_at.timestamp()
        self._emit_end(status, {**facts, "completed_at": completed_at}, command_headers(appended))

    def _report_delay(self, error: Exception) -> None:
        """Ends the clients' streams with an error while the end is still being appended."""
        if not self._ended:
            self._end_with_error(error)

    def _emit_end(self, status: Status, facts: dict[str, Any], headers: dict[str, str]) -> None:
        response = response_of(self._requested, self._conversation_id, status, **facts)
        self._response = response, headers
        self._emit(stream_events.ended(status, response))

    def _end_with_error(self, error: Exception) -> None:
        """Ends the streams of this process's clients with an `error` event. Followers of the record see the end recorded there."""
        api_error = as_api_error(error)
        event = {"type": "error", "code": api_error.code, "message": api_error.message, "param": None}
        # It repeats the last event's number: a client that resumes after it gets the events that follow.
        self._error_event = stream_events.encode(event, max(0, len(self._events) - 1))
        self._failure = self._failure or error
        self._ended = True
        self._notify()

    async def _count_usage(self) -> Usage:
        """Our own count, for a provider that reports none."""
        [output] = await count_off_loop([self._output.text])
        return Usage(input_tokens=self._command.shown.tokens, output_tokens=output)
