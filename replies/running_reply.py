"""One reply while it runs: the provider's pieces become the events of its stream, and its end goes on record.

Whoever listens reads the events at a pace of their own; the provider waits for nobody. What ends a stream is told after the
commit. However it ends, what had arrived is kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import structlog
from msgspec.structs import replace

from commands.command_context import CommandContext
from context.tokens import count_off_loop
from domain.commands import CancelReply, Command, CompleteReply, FailReply, InterruptReply, NewItem, RequestReply
from domain.errors import ConversationNotFound, ModelFailed, ReplyIsOver, ResponseNotFound
from domain.events import ReplyRequested, Timing, Usage
from domain.items import as_output
from infrastructure.event_log.append_request import Appended
from infrastructure.http.errors import as_api_error
from infrastructure.http.headers import answer_headers
from replies import stream_events
from replies.output import Output
from replies.provider.stream_parts import Finished
from replies.record import INTERRUPTIONS, Record, begun, response_of
from replies.record_reply_end import settle
from replies.response_object import INCOMPLETE_REASONS, Status

log = structlog.get_logger(__name__)

Stop = Literal["client_closed", "server_stopped", "cancelled"]


class Reply:
    """A reply that has been requested. `start` it once; `whole` and `stream` may be taken by anybody, at any time.

    Where `requested` is None it is not `on_record`: nothing is kept of it, and there is no conversation.
    """

    def __init__(
        self,
        context: CommandContext,
        conversation_id: str,
        request: RequestReply,
        body: Mapping[str, Any],
        requested: Appended | None,
    ) -> None:
        self.response_id = request.response_id
        self.conversation_id = conversation_id
        self.context = replace(context, if_match=None, idempotency=None)  # they were for the request
        self._request = request
        self._requested = requested
        self._asked = ReplyRequested(
            response_id=request.response_id,
            model=request.model,
            parameters=request.parameters,
            input=request.input,
            shown=request.shown,
        )
        self._body = body
        self._output = Output()
        self._started = time.perf_counter()
        self._first: float | None = None
        self._sent: list[bytes] = []
        self._safe = 0
        self._news = asyncio.Event()
        self._over = False
        self._failure: Exception | None = None
        self._ended: tuple[bytes, dict[str, str]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._settling = False
        self._entered = False
        self._stop: Stop | None = None
        self._last_word: bytes | None = None

    @property
    def on_record(self) -> bool:
        return self._requested is not None

    @property
    def seconds(self) -> float:
        """For how long it has been under way."""
        return time.perf_counter() - self._started

    def start(self) -> "asyncio.Task[None]":
        """Runs it as a task that ends when its end is on record, whatever becomes of whoever asked for it."""
        self._task = asyncio.create_task(self._run())
        return self._task

    def stop(self, why: Stop) -> None:
        """Stops the provider; what came is kept. One whose answer is whole already ends as if nobody had asked."""
        if self._settling:
            return
        self._stop = why
        if self._task is not None and self._entered:
            self._task.cancel()

    async def begun(self) -> dict[str, str]:
        """The headers that its stream begins with."""
        return answer_headers(self._requested) if self._requested is not None else {}

    def queued(self) -> tuple[bytes, dict[str, str]]:
        """The Response of a reply in the background, and its headers."""
        assert self._requested is not None
        return response_of(self._asked, self._shown_in, "queued"), answer_headers(self._requested)

    async def whole(self) -> tuple[bytes, dict[str, str]]:
        """The finished Response, and its headers. Raises ModelFailed, when that is on record, and what kept the end from the record."""
        while not self._over:
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        assert self._ended is not None
        return self._ended

    async def stream(self) -> AsyncIterator[bytes]:
        """The reply's server-sent events from the first on. Whatever happens is told in the stream."""
        at = 0
        while True:
            if at < self._safe:
                rest = self._sent[at : self._safe]
                at += len(rest)
                yield b"".join(rest)
            elif self._over and at == len(self._sent):
                if self._last_word is not None:
                    yield self._last_word
                return
            else:
                await self._news.wait()

    async def _run(self) -> None:
        self._entered = True
        try:
            await self._speak()
        except Exception as error:
            self._tell_error(error)  # it runs nowhere now, and is found and ended as one of those
            raise
        finally:
            self._over = True
            self._ring()

    async def _speak(self) -> None:
        """From the first event to the end on record."""
        try:
            for event in begun(self._asked, self._shown_in):
                self._tell(event)
            if self._stop is not None:
                raise asyncio.CancelledError
            finished = await self._take_pieces()
            self._settling = True
            await self._complete(finished)
        except asyncio.CancelledError:
            self._settling = True
            await self._end_stopped(self._stop or "server_stopped")
        except ModelFailed as failure:
            self._settling = True
            await self._end_failed(failure)
        except Exception as error:
            self._settling = True
            log.exception("reply_broke_off", response_id=self.response_id)
            await self._end_failed(ModelFailed("internal_error", "Something went wrong here."), error)

    async def _take_pieces(self) -> Finished:
        """Reads the provider to its end."""
        finished = Finished("stop")
        async for piece in self.context.dependencies.provider.stream(self._body):
            if self._first is None:
                self._first = time.perf_counter()
            if isinstance(piece, Finished):
                finished = piece
                continue
            for event in self._output.take(piece):
                self._tell(event)
        return finished

    def _tell(self, event: stream_events.StreamEvent) -> None:
        """Adds the event to the stream: for those who listen here, and for those who follow it elsewhere."""
        sequence = len(self._sent)
        sent = stream_events.sse(event, sequence)
        self._sent.append(sent)
        if self.on_record:
            self.context.dependencies.live.write(self.response_id, sequence, sent, self._written)
        else:
            self._written(sequence)

    def _written(self, sequence: int) -> None:
        """Redis has the events up to this one, or can not be had: whoever listens may see them."""
        self._safe = max(self._safe, sequence + 1)
        self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _complete(self, finished: Finished) -> None:
        """Puts the reply's end on record, its items joining the conversation, and tells of it."""
        reason = INCOMPLETE_REASONS.get(finished.finish_reason)
        status: Status = "incomplete" if reason else "completed"
        for event in self._output.finish(status):
            self._tell(event)
        ended = time.perf_counter()
        usage = finished.usage or await self._counted_usage()
        model = finished.model or self._request.model
        cost = self.context.dependencies.models.cost(model, usage)
        command = CompleteReply(
            response_id=self.response_id,
            model=model,
            author=self.context.principal.subject,
            input=self._request.input,
            output=tuple(NewItem(item_id=kept.item_id, item=kept.item) for kept in self._output.items()),
            usage=usage,
            finish_reason=finished.finish_reason,
            timing=Timing(
                first_ms=round(((self._first or ended) - self._started) * 1000),
                total_ms=round((ended - self._started) * 1000),
            ),
            delta_lengths=self._output.lengths,
            cost=cost,
        )
        facts: dict[str, Any] = {
            "model": model,
            "output": [as_output(kept.item_id, kept.item) for kept in command.output],
            "usage": usage,
            "incomplete_reason": reason,
            "cost": cost,
        }
        await self._end(command, status, facts)
        metrics = self.context.dependencies.metrics
        metrics.reply_tokens.labels("input").inc(usage.input_tokens)
        metrics.reply_tokens.labels("output").inc(usage.output_tokens)

    async def _end_failed(self, failure: ModelFailed, error: Exception | None = None) -> None:
        log.warning("reply_failed", response_id=self.response_id, code=failure.code)
        self._failure = error or failure
        command = FailReply(
            response_id=self.response_id,
            code=failure.code,
            message=failure.message,
            output=self._output.items(),
            delta_lengths=self._output.lengths,
        )
        await self._end(command, "failed", {"error": {"code": failure.code, "message": failure.message}})

    async def _end_stopped(self, why: Stop) -> None:
        kept, lengths = self._output.items(), self._output.lengths
        if why == "cancelled":
            await self._end(
                CancelReply(response_id=self.response_id, output=kept, delta_lengths=lengths), "cancelled", {}
            )
            return
        command = InterruptReply(response_id=self.response_id, code=why, output=kept, delta_lengths=lengths)
        await self._end(command, "incomplete", {"error": {"code": why, "message": INTERRUPTIONS[why]}})

    async def _end(self, command: Command, status: Status, facts: dict[str, Any]) -> None:
        """Puts the end on record, however long that takes, and tells of it when it is there."""
        facts = {"output": [as_output(kept.item_id, kept.item) for kept in self._output.items()], **facts}
        metrics = self.context.dependencies.metrics
        metrics.replies.labels(status).inc()
        metrics.reply_seconds.observe(time.perf_counter() - self._started)
        if self._requested is None:
            self._tell_end(status, {**facts, "completed_at": time.time()})
            return
        try:
            appended = await settle(self.context, self.conversation_id, self.response_id, command, self._tell_late)
        except (ConversationNotFound, ReplyIsOver, ResponseNotFound) as refused:
            # The conversation was deleted, or another process took this one for dead. What that one put on record stands.
            log.warning("reply_had_ended", response_id=self.response_id, code=refused.code)
            self._tell_error(refused)
            return
        if isinstance(appended, Record):
            self._tell(stream_events.ended(appended.status, response := appended.response()))
            self._ended = response, {}
            return
        self._tell_end(status, {**facts, "completed_at": appended.recorded_at.timestamp()}, answer_headers(appended))

    def _tell_late(self, error: Exception) -> None:
        """The end takes long to get on record: that is told, once, to those who listen."""
        if not self._over:
            self._tell_error(error)

    def _tell_end(self, status: Status, facts: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        response = response_of(self._asked, self._shown_in, status, **facts)
        self._ended = response, headers or {}
        self._tell(stream_events.ended(status, response))

    def _tell_error(self, error: Exception) -> None:
        """Ends the streams that are listened to here; whoever follows the record will see how it ends there."""
        api_error = as_api_error(error)
        event = {"type": "error", "code": api_error.code, "message": api_error.message, "param": None}
        # It has the number of the last event: who goes on behind it gets what follows that.
        self._last_word = stream_events.sse(event, max(0, len(self._sent) - 1))
        self._failure = self._failure or error
        self._over = True
        self._ring()

    async def _counted_usage(self) -> Usage:
        """Our count, where the provider gave none."""
        [output] = await count_off_loop([self._output.text])
        return Usage(input_tokens=self._request.shown.tokens, output_tokens=output)

    @property
    def _shown_in(self) -> str | None:
        """The conversation that a Response names."""
        return self.conversation_id if self._requested is not None else None
