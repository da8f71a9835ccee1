"""A reply while it runs. The provider's stream becomes events of the reply. The end of a stored reply is appended to
the log.

The provider never waits for clients. The end of a stored reply is sent only after the commit. If the commit takes
too long, an error is sent instead. The output is kept even if the reply fails or is stopped.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from msgspec import Struct
from msgspec.structs import replace

from context.models import Models
from context.tokens import count_off_loop
from domain.commands import Command, CompleteReply, QueueReply, RequestReply, ShowReply
from domain.errors import ConversationNotFound, ModelFailed, Refused, ReplyIsOver, ReplyLost, ResponseNotFound
from domain.events import InputItem, ReplyQueued, ReplyRequested, Timing, Usage
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.version_lookup import Head
from infrastructure.http.errors import ApiError, as_api_error
from infrastructure.http.headers import command_headers
from infrastructure.ids import mint_uuid
from infrastructure.observability.metrics import Metrics
from replies import stream_events
from replies.event_buffer import EventBuffer
from replies.left_out_header import left_out_header
from replies.live_events import LiveWriter
from replies.output import Output
from replies.provider.stream_parts import Finished
from replies.record import Record
from replies.record_reply_end import record_reply_end
from replies.repeat import Repeat, RepeatOf
from replies.reply_end import PrefixesOf, ReplyEnd, StopReason, completed, failed, status_when_finished, stopped
from replies.response_from_events import Request, opening_events, response_of
from replies.title_writer import TitleWriter

if TYPE_CHECKING:  # only for types: the provider's client is slow to import
    from replies.provider.provider import ModelProvider

log = structlog.get_logger(__name__)

MAX_REPEATS = 2
"""The first repeat may put a note in place of what the refusal names. The second repeat replaces all that may be the
cause.
"""


class ReplyServices(Struct, frozen=True, kw_only=True):
    log: EventLog
    reader: EventReader
    provider: "ModelProvider"
    models: Models
    live: LiveWriter
    metrics: Metrics
    titles: TitleWriter


class RunningReply:
    """Call `start` once. Any number of clients may call `response` and `stream`, at any time.

    `body`: the request to the provider. Without `requested`, the reply is not stored. `spend` gets the tokens that the
    reply and its title took. `repeat` is called, at most twice, when the request fails before any part of an answer.
    """

    def __init__(
        self,
        services: ReplyServices,
        *,
        principal: Principal,
        request_id: str,
        command: RequestReply | QueueReply,
        body: Mapping[str, Any],
        conversation_id: str | None = None,
        requested: Appended | None = None,
        spend: Callable[[int], None],
        prefixes: PrefixesOf | None = None,
        repeat: RepeatOf | None = None,
    ) -> None:
        self.response_id = command.response_id
        self.stored = requested is not None
        self.headers = {
            **({} if requested is None else command_headers(requested)),
            **left_out_header(command),
        }
        self._services = services
        self._principal = principal
        self._request_id = request_id
        self._conversation_id = conversation_id
        self._requested = request_of(command)
        self._body = body
        self._opened = 0
        self._spend = spend
        self._prefixes = prefixes
        self._repeat_of = repeat
        self._output = Output()
        self._started_at = time.perf_counter()
        self._first_part_at: float | None = None
        self._events = EventBuffer()
        self._task: asyncio.Task[None] | None = None
        self._entered = False
        self._stop_reason: StopReason | None = None
        self._ending = False
        self._response: tuple[bytes, dict[str, str]] | None = None
        self._failure: Exception | None = None
        self._on_record = self.stored
        self.is_cut_off = False
        """Whether the client may no longer read the reply's conversation."""
        policy = None if requested is None else requested.conversation.context_policy
        self.finishes_alone = policy is not None and policy.on_disconnect == "finish"
        """Whether the reply goes on when its client disconnects."""

    @property
    def input(self) -> tuple[InputItem, ...]:
        """Includes the items that were carried over from earlier replies."""
        return self._requested.input

    @property
    def output(self) -> tuple[InputItem, ...]:
        return self._output.items()

    @property
    def seconds(self) -> float:
        """Seconds since this object was made."""
        return time.perf_counter() - self._started_at

    def start(self) -> "asyncio.Task[None]":
        self._task = asyncio.create_task(self._run())
        return self._task

    def stop(self, reason: StopReason) -> None:
        """Keeps the output so far. Does nothing once the reply is ending."""
        if self._ending:
            return
        self._stop_reason = reason
        if self._task is not None and self._entered:
            self._task.cancel()

    def stop_lost(self) -> None:
        """Stops a reply that was deleted, or that another process has ended."""
        self.stop("cancelled")

    @property
    def conversation_id(self) -> str | None:
        """None if the reply is not stored."""
        return self._conversation_id

    def update_head(self, head: Head | None) -> None:
        """Ends the client's stream if the client may no longer read the conversation.

        The reply of a deleted conversation also stops, because its end cannot be stored.
        """
        if head is None or self._conversation_id is None or self.is_cut_off:
            return
        if head.deleted or head.role(self._principal) is None:
            self.is_cut_off, self._on_record = True, False
            self._failure = ConversationNotFound(self._conversation_id)
            self._events.cut_off(stream_events.failed(self._error(self._failure)))
        if head.deleted:
            self.stop("cancelled")

    def queued_response(self) -> bytes:
        return response_of(self._requested, self._conversation_id, "queued")

    async def response(self) -> tuple[bytes, dict[str, str]]:
        """Waits for the end. Raises ApiError if the reply failed, if its end was not appended in time, or if the
        client may no longer read the conversation.
        """
        await self._events.wait_for_end()
        if self._failure is not None:
            raise self._error(self._failure) from self._failure
        assert self._response is not None
        response, headers = self._response
        return response, {**headers, **left_out_header(self._requested)}

    def stream(self) -> AsyncIterator[bytes]:
        """Errors become events. Nothing is raised."""
        return self._events.stream()

    async def _run(self) -> None:
        self._entered = True
        try:
            await self._answer()
        except Exception as error:
            self._end_with_error(error)  # the log has no end of the reply, so the reply is marked interrupted later
            raise
        finally:
            self._events.end()

    async def _answer(self) -> None:
        """The end is also appended if the reply fails or is stopped."""
        try:
            self._open()
            if self._stop_reason is not None:
                raise asyncio.CancelledError
            finished = await self._ask()
            self._ending = True
            await self._complete(finished)
        except asyncio.CancelledError:
            self._ending = True
            await self._spend_on_what_arrived()
            await self._end_stopped()
        except ModelFailed as failure:
            self._ending = True
            await self._fail(failure)
        except (Refused, psycopg.Error) as error:  # the request's images and files could not be read
            self._ending = True
            reported = as_api_error(error)
            await self._fail(ModelFailed(reported.code or "refused", reported.message), error)
        except Exception as error:
            self._ending = True
            log.exception("reply_crashed", response_id=self.response_id)
            await self._fail(ModelFailed("internal_error", "The reply stopped because of an internal error."), error)

    def _open(self) -> None:
        events = opening_events(self._requested, self._conversation_id)
        for event in events[self._opened :]:
            self._emit(event)
        self._opened = len(events)

    async def _ask(self) -> Finished:
        learn: Callable[[], Awaitable[None]] | None = None
        for _ in range(MAX_REPEATS):
            try:
                return await self._read_provider(learn)
            except ModelFailed as failure:
                repeat = await self._repeat_after(failure)
                if repeat is None:
                    raise
                learn = repeat.learn
        return await self._read_provider(learn)

    async def _repeat_after(self, failure: ModelFailed) -> Repeat | None:
        """Records the repeat of a stored reply."""
        requested = self._requested
        if self._repeat_of is None or self._first_part_at is not None or not isinstance(requested, ReplyRequested):
            return None
        try:
            repeat = await self._repeat_of(failure, requested.shown)
            if repeat is None:
                return None
            if self._conversation_id is not None:
                shown = ShowReply(
                    response_id=self.response_id, model=requested.model, shown=repeat.shown, reason=repeat.reason
                )
                await self._services.log.append(self._append_request(self._conversation_id, shown))
        except Exception as error:  # noqa: BLE001 - without a repeat, the refusal is the answer
            log.warning("reply_not_repeated", response_id=self.response_id, error_type=type(error).__name__)
            return None
        log.warning("reply_repeated", response_id=self.response_id, reason=repeat.reason)
        self._body = repeat.body
        self._requested = replace(requested, shown=repeat.shown)
        return repeat

    async def _read_provider(self, on_first_part: Callable[[], Awaitable[None]] | None = None) -> Finished:
        finished = Finished("stop")
        async for part in self._services.provider.stream(self._body):
            if self._first_part_at is None:
                self._first_part_at = time.perf_counter()
                if on_first_part is not None:
                    await on_first_part()
            if isinstance(part, Finished):
                finished = part
                continue
            for event in self._output.add(part):
                self._emit(event)
        return finished

    def _emit(self, event: stream_events.StreamEvent) -> None:
        sequence, encoded = self._events.append(event)
        if self.stored:
            self._services.live.write(self.response_id, sequence, encoded, self._events.make_readable)
        else:
            self._events.make_readable(sequence)

    async def _complete(self, finished: Finished) -> None:
        for event in self._output.finish(status_when_finished(finished.finish_reason)):
            self._emit(event)
        ended_at = time.perf_counter()
        usage = finished.usage or await self._count_usage()
        self._spend(usage.input_tokens + usage.output_tokens)
        model = finished.model or self._requested.model
        end = completed(
            self._requested,
            self._output,
            author=self._principal.subject,
            key_id=self._principal.key_id,
            model=model,
            usage=usage,
            cost=self._services.models.cost(self._requested.model, usage, reported=model),
            finish_reason=finished.finish_reason,
            service_tier=finished.service_tier,
            timing=Timing(
                first_ms=round(((self._first_part_at or ended_at) - self._started_at) * 1000),
                total_ms=round((ended_at - self._started_at) * 1000),
            ),
            prefixes=self._prefixes,
        )
        await self._end(end)
        metrics = self._services.metrics
        metrics.reply_tokens.labels("input").inc(usage.input_tokens)
        metrics.reply_tokens.labels("output").inc(usage.output_tokens)

    async def _fail(self, failure: ModelFailed, error: Exception | None = None) -> None:
        """`error`: what `response` raises instead of `failure`."""
        log.warning("reply_failed", response_id=self.response_id, code=failure.code)
        self._failure = error or failure
        await self._spend_on_what_arrived()
        await self._end(failed(self.response_id, self._output, failure))

    async def _end_stopped(self) -> None:
        end = stopped(
            self._requested,
            self._output,
            self._stop_reason or "server_stopped",
            author=self._principal.subject,
            prefixes=self._prefixes,
        )
        await self._end(end)

    async def _end(self, end: ReplyEnd) -> None:
        """Appends the end of a stored reply, however long that takes. Then sends the last event."""
        services = self._services
        services.metrics.replies.labels(end.status).inc()
        services.metrics.reply_seconds.observe(self.seconds)
        if self._conversation_id is None:
            self._emit_end(end, time.time(), {})
            return
        request = self._append_request(self._conversation_id, end.command)
        try:
            # Not the principal's reader, because the principal may no longer read the conversation.
            reader = services.reader.of_tenant(self._principal.tenant)
            appended = await record_reply_end(services.log, reader, request, self._report_delay)
        except (ConversationNotFound, ReplyIsOver, ReplyLost, ResponseNotFound) as refused:
            # The reply was deleted, the log has lost its request, or another process ended the reply.
            log.warning("reply_end_refused", response_id=self.response_id, code=refused.code)
            self._on_record = isinstance(refused, ReplyIsOver)
            self._end_with_error(refused)
            return
        if isinstance(appended, Record):
            self._response = appended.response(), {}
            self._emit(stream_events.ended(appended.status, self._response[0]))
            return
        self._emit_end(end, appended.recorded_at.timestamp(), command_headers(appended))
        if isinstance(end.command, CompleteReply):
            services.titles.after_reply(
                end.command,
                appended,
                principal=self._principal,
                request_id=self._request_id,
                model=self._requested.model,
                spend=self._spend,
            )

    def _append_request(self, conversation_id: str, command: Command) -> AppendRequest:
        return AppendRequest(
            principal=self._principal,
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=self._request_id,
            size=command_bytes(command),
        )

    def _report_delay(self, error: Exception) -> None:
        """The end is still being appended."""
        if not self._events.ended:
            self._end_with_error(error)

    def _emit_end(self, end: ReplyEnd, completed_at: float, headers: dict[str, str]) -> None:
        response = response_of(
            self._requested, self._conversation_id, end.status, **end.facts, completed_at=completed_at
        )
        self._response = response, headers
        self._emit(stream_events.ended(end.status, response))

    def _end_with_error(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._events.end_with_error(stream_events.failed(self._error(error)))

    def _error(self, error: Exception) -> ApiError:
        api_error = as_api_error(error)
        return api_error.on_record_as(self.response_id) if self._on_record else api_error

    async def _spend_on_what_arrived(self) -> None:
        """A provider reports tokens only at the end of an answer."""
        if self._first_part_at is not None:
            usage = await self._count_usage()
            self._spend(usage.input_tokens + usage.output_tokens)

    async def _count_usage(self) -> Usage:
        [output] = await count_off_loop([self._output.text])
        tokens = self._requested.shown.tokens if isinstance(self._requested, ReplyRequested) else 0
        return Usage(input_tokens=tokens, output_tokens=output)


def request_of(command: RequestReply | QueueReply) -> Request:
    """The request as an event. A ReplyRequested has only some of the command's fields."""
    if isinstance(command, QueueReply):
        return ReplyQueued(**{name: getattr(command, name) for name in ReplyQueued.__struct_fields__})
    return ReplyRequested(
        response_id=command.response_id,
        model=command.model,
        parameters=command.parameters,
        input=command.input,
        shown=command.shown,
        queued=command.queued,
    )
