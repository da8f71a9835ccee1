"""The reply that a repeated request gets: the reply of the first request, as a Response or as the same stream of events."""

from collections.abc import AsyncGenerator

from msgspec import Struct

from domain.errors import ModelFailed
from domain.events import ReplyFailed
from infrastructure.access.principal import Principal
from infrastructure.http.errors import ApiError, as_api_error
from infrastructure.http.headers import position_headers
from replies.following import ReplyStreams, until_ended
from replies.left_out_header import left_out_header
from replies.record import Reader, Record, read_record

FIRST_REQUEST_TIMEOUT_SECONDS = 120.0


class ReplyReference(Struct, frozen=True):
    """What is stored with an idempotency key: the reply that the first request with the key started."""

    conversation_id: str
    response_id: str


class RecordedReply:
    """One reply, as the log has it. Its methods raise psycopg.Error when the log is unavailable, and ResponseNotFound when the reply was deleted."""

    def __init__(
        self, reader: Reader, shared: Reader, streams: ReplyStreams, reference: ReplyReference, principal: Principal
    ) -> None:
        """`reader`: reads what the principal may read. `shared`: reads without checking roles, because several followers share a read."""
        self._reader = reader
        self._shared = shared
        self._streams = streams
        self._reference = reference
        self._principal = principal

    @property
    def response_id(self) -> str:
        return self._reference.response_id

    @property
    def conversation_id(self) -> str:
        return self._reference.conversation_id

    async def record(self) -> Record:
        """The reply's record as it is now."""
        return await read_record(self._reader, self._reference.conversation_id, self._reference.response_id)

    async def current_response(self) -> tuple[bytes, dict[str, str]]:
        """The Response as it is now, and its headers."""
        record = await self.record()
        return record.response(), _headers(record)

    async def response(self) -> tuple[bytes, dict[str, str]]:
        """Waits until the reply has ended. Returns the Response and its headers.

        If the reply failed, raises the ApiError that the first request got. Raises ApiError (503) if the reply has not ended in time.
        """
        record = await until_ended(self._reader, await self.record(), FIRST_REQUEST_TIMEOUT_SECONDS)
        if record.end is None:
            message = "The first request with this key is still running."
            raise ApiError(503, message, code="response_in_progress").on_record_as(record.response_id)
        if isinstance(record.end, ReplyFailed):
            end = record.end
            failure = ModelFailed(end.code, end.message, timed_out=end.code == "model_timeout")
            raise as_api_error(failure).on_record_as(record.response_id)
        return record.response(), _headers(record)

    async def stream(self) -> tuple[AsyncGenerator[bytes, None], dict[str, str]]:
        """The events of the reply to the first request, split into the same deltas, and the headers of the answer.

        While the reply runs, its new events are sent as they come.
        """
        record = await self.record()

        async def read_again() -> Record:
            return await read_record(self._shared, record.conversation_id, record.response_id)

        return self._streams.follow(record, read_again, -1, self._principal), _headers(record)


def _headers(record: Record) -> dict[str, str]:
    headers = position_headers(record.last.position, record.last.version)
    return {**headers, "idempotent-replayed": "true", **left_out_header(record.requested)}
