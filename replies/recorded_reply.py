"""A reply that a repeat of its request asks for again: its answer, whole or as the same stream of events."""

from collections.abc import AsyncIterator

from msgspec import Struct

from commands.command_context import CommandContext
from domain.errors import ModelFailed
from domain.events import ReplyFailed
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import placed
from replies.following import follow, until_over
from replies.record import Record, read

WAIT_SECONDS = 120.0


class Kept(Struct, frozen=True):
    """What an idempotency key of a reply is kept with: the reply that its first request led to."""

    conversation_id: str
    response_id: str


class RecordedReply:
    """One reply, as the log has it. Raises psycopg.Error when that is away, ResponseNotFound when it was deleted."""

    def __init__(self, context: CommandContext, kept: Kept) -> None:
        self._wiring = context.dependencies
        self._kept = kept

    async def recorded(self) -> Record:
        """Its record now."""
        return await read(self._wiring.reader, self._kept.conversation_id, self._kept.response_id)

    async def begun(self) -> dict[str, str]:
        """The headers that a stream of it begins with."""
        return _headers(await self.recorded())

    async def now(self) -> tuple[bytes, dict[str, str]]:
        """The Response as it is now, and its headers."""
        record = await self.recorded()
        return record.response(), _headers(record)

    async def whole(self) -> tuple[bytes, dict[str, str]]:
        """The Response once it has ended, and its headers. Raises ModelFailed as the first answer did; ApiError 503 when it takes too long."""
        record = await until_over(self.recorded, await self.recorded(), WAIT_SECONDS)
        if record.end is None:
            raise ApiError(503, "The first request with this key is still running.", code="response_in_progress")
        if isinstance(record.end, ReplyFailed):
            failure = record.end
            raise ModelFailed(failure.code, failure.message, timed_out=failure.code == "model_timeout")
        return record.response(), _headers(record)

    def stream(self, record: Record) -> AsyncIterator[bytes]:
        """The same events again, in the same pieces; as they come, where the reply still runs."""
        return follow(self._wiring.redis, self.recorded, record, -1)


def _headers(record: Record) -> dict[str, str]:
    return {**placed(record.last.position, record.last.version), "idempotent-replayed": "true"}
