"""What a command handler is given: the dependencies of the process, and the sender and conditions of the request."""

import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import Struct
from redis.asyncio import Redis
from starlette.responses import Response

from commands.response_schemas import SchemaChecker
from context.assembly import Contexts
from context.models import Models
from domain.commands import Command
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest, IdempotencyKey, LogUnavailable
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog, utc_now
from infrastructure.event_log.reader import EventReader, FirstAnswer
from infrastructure.http import shapes
from infrastructure.http.headers import command_headers
from infrastructure.ids import mint_uuid
from replies.active_replies import ActiveReplies
from replies.running_reply import ReplyServices

if TYPE_CHECKING:  # scripts import the commands' bodies, and need not wait for the provider's client to load
    from replies.provider.provider import ModelProvider


class Dependencies(Struct, frozen=True, kw_only=True):
    """What the handlers of a process share; `main.py` makes it."""

    log: EventLog
    reader: EventReader
    provider: "ModelProvider"
    models: Models
    contexts: Contexts
    keep_keys: timedelta
    """How long the first answer to an idempotency key is kept."""
    redis: Redis
    """Live events are read with it: a read waits up to a second."""
    reply_services: ReplyServices
    active_replies: ActiveReplies
    schema_checker: SchemaChecker
    shutdown: threading.Event
    """Set when the process is about to stop: streams that follow a reply end."""


class CommandContext(Struct, frozen=True, kw_only=True):
    """One request: who sent it, and under which conditions. Handlers append through it."""

    dependencies: Dependencies
    principal: Principal
    request_id: str
    if_match: frozenset[int] | None
    idempotency: IdempotencyKey | None
    disconnected: Callable[[], Awaitable[None]]
    """Returns when the client has disconnected. Only for a request whose body was read."""

    async def append(
        self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes] | None = None
    ) -> Appended:
        """Makes the command durable. `answer` renders what a repeat of the request will be answered with.

        Raises what EventLog.append raises. An unknown outcome is not called so if the client can repeat the request safely.
        """
        request = AppendRequest(
            principal=self.principal,
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=self.request_id,
            size=command_bytes(command),
            if_match=self.if_match,
            idempotency=self.idempotency if answer is not None else None,
            answer=answer,
        )
        try:
            return await self.dependencies.log.append(request)
        except LogUnavailable as error:
            repeatable = request.if_match is not None or request.idempotency is not None
            raise LogUnavailable(outcome_unknown=error.outcome_unknown and not repeatable) from error

    async def execute(self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes]) -> Response:
        """Appends the command. Answers with what `answer` renders, or with the first answer if this is a repeat."""
        appended = await self.append(conversation_id, command, answer)
        body = appended.answer if appended.answer is not None else answer(appended)
        return shapes.json_response(body, headers=command_headers(appended))

    async def first_answer(self) -> FirstAnswer | None:
        """What the first request with this idempotency key was answered. Raises KeyReused if that request differed."""
        if self.idempotency is None:
            return None
        since = utc_now() - self.dependencies.keep_keys
        return await self.dependencies.reader.first_answer(self.principal.tenant, self.idempotency, since=since)
