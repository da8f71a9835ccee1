"""One reply while it runs: the provider's pieces become the Responses API's events, and its end goes on record.

`response.completed` is sent after the commit. A streaming client that hangs up stops the provider, unless its request has a
key to come back with; what had arrived is kept with the response, as is what had arrived when the provider failed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from commands import reply_events
from commands.carry_out import Caller
from commands.reply_events import StreamEvent
from domain.commands import CompleteReply, FailReply, NewItem, RequestReply
from domain.errors import Refused
from domain.events import InputItem, Timing, Usage
from domain.items import as_output, as_stored
from infrastructure.event_log.work import Appended
from infrastructure.http.errors import as_api_error
from infrastructure.http.headers import answer_headers
from infrastructure.http.response_object import INCOMPLETE_REASONS, response_object
from infrastructure.ids import mint, minted_seconds
from infrastructure.model import ModelFailed
from infrastructure.model.pieces import Began, Finished, Grew
from infrastructure.tokens import count_off_loop

log = structlog.get_logger(__name__)

T = TypeVar("T")
Emit = Callable[[StreamEvent], Awaitable[None]]

BUFFERED_EVENTS = 256
"""Events a slow reader may be behind before the provider is read more slowly."""

_running: set[asyncio.Task[Any]] = set()
"""Replies under way, whoever listens; held so that they are not collected."""

_ending: set[asyncio.Task[None]] = set()
"""Ends being put on record of replies that were stopped."""


async def endings() -> None:
    """Stops the replies that still run, and waits until the end of each is on record. The process is about to end."""
    stopped = list(_running)
    for reply in stopped:
        reply.cancel(STOPPING)
    await asyncio.gather(*stopped, return_exceptions=True)
    while _ending:
        await asyncio.wait(set(_ending))


STOPPING = "The server was stopped."
HUNG_UP = "The client hung up."


class Reply:
    """A reply that has been requested. Take it `whole` or as a `stream`, once."""

    def __init__(
        self,
        called: Caller,
        conversation_id: str,
        request: RequestReply,
        body: Mapping[str, Any],
        requested: Appended,
    ) -> None:
        self._requested = requested
        self._goes_on = called.idempotency is not None
        self._heard = True
        self._called = replace(called, if_match=None, idempotency=None)  # they were for the request
        self._conversation_id = conversation_id
        self._request = request
        self._body = body
        self._parameters: dict[str, Any] = msgspec.json.decode(request.parameters)
        self._item_id = mint("msg")
        self._started = time.perf_counter()
        self._first: float | None = None
        self._text: list[str] = []
        self._finish_reason = "stop"
        self._model = request.model
        self._usage: Usage | None = None

    async def begun(self) -> dict[str, str]:
        """The headers that its stream begins with."""
        return answer_headers(self._requested)

    async def whole(self) -> tuple[bytes, dict[str, str]]:
        """The finished Response, and its headers. Raises ModelFailed, when that is on record."""
        return await asyncio.shield(self._start(self._finish()))

    async def _finish(self) -> tuple[bytes, dict[str, str]]:
        async def nobody(_: StreamEvent) -> None:
            return

        try:
            await self._take_pieces(nobody)
        except ModelFailed as failure:
            await self._fail(failure)
            raise
        response, appended = await self._complete()
        return response, answer_headers(appended)

    async def stream(self) -> AsyncIterator[bytes]:
        """The reply's server-sent events. Whatever happens after the first of them is told in the stream."""
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue(BUFFERED_EVENTS)
        producer = self._start(self._produce(events))
        try:
            sequence = 0
            while (event := await events.get()) is not None:
                yield reply_events.sse(event, sequence)
                sequence += 1
        finally:
            self._heard = False
            while not events.empty():  # lets go of a producer that waits for room
                events.get_nowait()
            if not self._goes_on:
                producer.cancel(HUNG_UP)

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Runs it as a task that puts the reply's end on record also when it is stopped."""

        async def run() -> T:
            try:
                return await work
            except asyncio.CancelledError as stopped:
                reason = STOPPING if STOPPING in stopped.args else HUNG_UP
                abandoned = asyncio.create_task(self._abandon(reason))
                _ending.add(abandoned)
                abandoned.add_done_callback(_ending.discard)
                raise

        task = asyncio.create_task(run())
        _running.add(task)
        task.add_done_callback(_running.discard)
        return task

    async def _produce(self, events: "asyncio.Queue[StreamEvent | None]") -> None:
        async def emit(event: StreamEvent) -> None:
            if self._heard:
                await events.put(event)

        try:
            await self._tell(emit)
        except Exception as error:
            api_error = as_api_error(error)
            log.exception("reply_broke_off", response_id=self._request.response_id)
            await emit({"type": "error", "code": api_error.code, "message": api_error.message, "param": None})
        if self._heard:
            await events.put(None)

    async def _tell(self, emit: Emit) -> None:
        """Runs the reply to its end on record, and emits all its events."""
        for event in reply_events.opened(self._response("in_progress")):
            await emit(event)
        try:
            await self._take_pieces(emit)
        except ModelFailed as failure:
            await self._fail(failure)
            failed = self._response("failed", error={"code": failure.code, "message": failure.message})
            await emit(reply_events.ended("failed", failed))
            return
        status = "incomplete" if self._finish_reason in INCOMPLETE_REASONS else "completed"
        for event in reply_events.done(self._item_id, "".join(self._text), status):
            await emit(event)
        response, _ = await self._complete()
        await emit(reply_events.ended(status, response))

    async def _abandon(self, reason: str) -> None:
        """Puts on record that the reply was stopped; one that had ended by then stays as it ended."""
        code = "client_closed" if reason == HUNG_UP else "interrupted"
        try:
            await self._fail(ModelFailed(code, reason))
        except Refused as refused:
            log.info("reply_had_ended", response_id=self._request.response_id, code=refused.code)
        except Exception:
            log.exception("reply_end_not_recorded", response_id=self._request.response_id)

    async def _take_pieces(self, emit: Emit) -> None:
        """Reads the provider to its end, and emits the events of one message that grows."""
        speaks = False
        async for piece in self._called.wiring.model.stream(self._body):
            match piece:
                case Began():
                    speaks = piece.item["type"] == "message"
                case Grew() if speaks:
                    await self._grow(piece.text, emit)
                case Finished():
                    self._finish_reason, self._usage = piece.finish_reason, piece.usage
                    self._model = piece.model or self._model
                case _:
                    pass
        if self._first is None:
            self._first = time.perf_counter()
            for event in reply_events.added(self._item_id):
                await emit(event)

    async def _grow(self, text: str, emit: Emit) -> None:
        if self._first is None:
            self._first = time.perf_counter()
            for event in reply_events.added(self._item_id):
                await emit(event)
        self._text.append(text)
        await emit(reply_events.delta(self._item_id, text))

    async def _complete(self) -> tuple[bytes, Appended]:
        """Puts the reply's end on record, its items joining the conversation; returns the Response."""
        finished = time.perf_counter()
        usage = await self._counted_usage()
        reason = INCOMPLETE_REASONS.get(self._finish_reason)
        status = "incomplete" if reason else "completed"
        said = reply_events.message("".join(self._text), status)
        output = NewItem(item_id=self._item_id, item=as_stored(said))
        appended = await self._called.append(
            self._conversation_id,
            CompleteReply(
                response_id=self._request.response_id,
                model=self._model,
                author=self._called.principal.subject,
                input=self._request.input,
                output=(output,),
                usage=usage,
                finish_reason=self._finish_reason,
                timing=Timing(
                    first_ms=round(((self._first or finished) - self._started) * 1000),
                    total_ms=round((finished - self._started) * 1000),
                ),
                delta_lengths=tuple(len(text) for text in self._text),
            ),
        )
        self._observe(status)
        metrics = self._called.wiring.metrics
        metrics.reply_tokens.labels("input").inc(usage.input_tokens)
        metrics.reply_tokens.labels("output").inc(usage.output_tokens)
        body = self._response(
            status,
            output=[as_output(output.item_id, output.item)],
            usage=usage,
            incomplete_reason=reason,
            completed_at=appended.recorded_at.timestamp(),
        )
        return body, appended

    async def _fail(self, failure: ModelFailed) -> None:
        command = FailReply(
            response_id=self._request.response_id,
            code=failure.code,
            message=failure.message,
            output=self._partial(),
            delta_lengths=tuple(len(text) for text in self._text),
        )
        await self._called.append(self._conversation_id, command)
        self._observe("failed")
        log.warning("reply_failed", response_id=self._request.response_id, code=failure.code)

    def _partial(self) -> tuple[InputItem, ...]:
        if self._first is None:
            return ()
        said = reply_events.message("".join(self._text), "incomplete")
        return (InputItem(item_id=self._item_id, item=as_stored(said)),)

    async def _counted_usage(self) -> Usage:
        """The provider's count; ours where it gave none."""
        given = self._usage
        if given is None:
            [output] = await count_off_loop(["".join(self._text)])
            return Usage(input_tokens=self._request.shown.tokens, output_tokens=output)
        return given

    def _observe(self, status: str) -> None:
        metrics = self._called.wiring.metrics
        metrics.replies.labels(status).inc()
        metrics.reply_seconds.observe(time.perf_counter() - self._started)

    def _response(self, status: Any, **known: Any) -> bytes:
        facts: dict[str, Any] = {"output": [], "usage": None, "error": None, "incomplete_reason": None, **known}
        return response_object(
            response_id=self._request.response_id,
            conversation_id=self._conversation_id,
            created_at=minted_seconds(self._request.response_id),
            status=status,
            model=self._model,
            parameters=self._parameters,
            **facts,
        )
