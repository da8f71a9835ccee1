"""What every verb does with its command: hand it to the log, and answer with where it stands."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from fastapi import Response
from msgspec import Struct
from redis.asyncio import Redis

from context.assembly import Contexts
from context.models import Models
from domain.commands import (
    AppendItems,
    CancelReply,
    Command,
    CompactContext,
    CompleteReply,
    DescribeConversation,
    FailReply,
    InterruptReply,
    NewItem,
    RequestReply,
    StartConversation,
)
from domain.events import InputItem
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest, IdempotencyKey, LogUnavailable
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.http import shapes
from infrastructure.http.headers import answer_headers
from infrastructure.ids import mint_uuid
from infrastructure.observability.metrics import Metrics
from replies.live_events import LiveWriter

if TYPE_CHECKING:
    from replies.active_replies import RunningReplies
    from replies.provider.provider import ModelProvider  # the scripts import this module, and need no provider

_ROW_BYTES = 400
"""About what an event's row takes beside the item in it."""


class Dependencies(Struct, frozen=True):
    """What the handlers of this process share; `main.py` makes it."""

    log: EventLog
    reader: EventReader
    provider: "ModelProvider"
    models: Models
    contexts: Contexts
    metrics: Metrics
    keep_keys: timedelta
    redis: Redis
    live: LiveWriter
    running: "RunningReplies"


class CommandContext(Struct, frozen=True):
    """Who sent this request, under which conditions, and what answers it."""

    dependencies: Dependencies
    principal: Principal
    request_id: str
    if_match: frozenset[int] | None
    idempotency: IdempotencyKey | None
    hung_up: Callable[[], Awaitable[None]]
    """Returns when the client has hung up; for a request whose body was read."""

    async def append(
        self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes] | None = None
    ) -> Appended:
        """Makes the command durable. Raises what EventLog.append raises, but that a repeat can settle what is unknown."""
        try:
            return await self._append(conversation_id, command, answer)
        except LogUnavailable as error:
            settled_by_repeat = self.if_match is not None or (self.idempotency is not None and answer is not None)
            raise LogUnavailable(outcome_unknown=error.outcome_unknown and not settled_by_repeat) from error

    async def _append(
        self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes] | None
    ) -> Appended:
        return await self.dependencies.log.append(
            AppendRequest(
                principal=self.principal,
                conversation_id=conversation_id,
                command=command,
                command_id=mint_uuid(),
                correlation_id=self.request_id,
                size=_size(command),
                if_match=self.if_match,
                idempotency=self.idempotency if answer is not None else None,
                answer=answer,
            )
        )

    async def execute(self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes]) -> Response:
        """Appends, and answers with what `answer` renders, or with the first answer where this is a repeat."""
        appended = await self.append(conversation_id, command, answer)
        body = appended.answer if appended.answer is not None else answer(appended)
        return shapes.json_response(body, headers=answer_headers(appended))


def _size(command: Command) -> int:
    """About how many bytes of events come of it: what a batch and the queue are bounded by."""
    match command:
        case AppendItems():
            return _items_size(command.items)
        case StartConversation():
            return _items_size(command.items) + 4 * len(command.instructions or "")
        case DescribeConversation():
            return _ROW_BYTES + 4 * len(command.instructions if isinstance(command.instructions, str) else "")
        case RequestReply():
            return _items_size(command.input) + len(command.parameters)
        case CompleteReply():
            return _items_size((*command.input, *command.output)) + 5 * len(command.delta_lengths)
        case FailReply() | CancelReply() | InterruptReply():
            return _items_size(command.output) + 5 * len(command.delta_lengths)
        case CompactContext():
            return _ROW_BYTES + 4 * len(command.summary)
        case _:
            return _ROW_BYTES


def _items_size(items: Sequence[NewItem | InputItem]) -> int:
    return _ROW_BYTES * (1 + len(items)) + sum(len(new.item) for new in items)
