"""A repeated request is answered with the reply to the first request."""

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
REPLAYED = {"idempotent-replayed": "true"}


class ReplyReference(Struct, frozen=True):
    """What is stored with an idempotency key."""

    conversation_id: str
    response_id: str


class RecordedReply:
    """The reply to the first request. Methods raise psycopg.Error, and ResponseNotFound when the reply was deleted."""

    def __init__(
        self, reader: Reader, shared: Reader, streams: ReplyStreams, reference: ReplyReference, principal: Principal
    ) -> None:
        """`shared` is for reads that several followers share, so `shared` checks no roles."""
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
        return await read_record(self._reader, self._reference.conversation_id, self._reference.response_id)

    async def current_response(self) -> tuple[bytes, dict[str, str]]:
        record = await self.record()
        return record.response(), _headers(record)

    async def response(self) -> tuple[bytes, dict[str, str]]:
        """Waits for the end. Raises the first request's ApiError, or ApiError (503) if the reply has not ended in
        time.
        """
        record = await until_ended(self._reader, await self.record(), FIRST_REQUEST_TIMEOUT_SECONDS)
        if record.end is None:
            message = "The first request with this key is still running."
            raise ApiError(503, message, code="response_in_progress").on_record_as(record.response_id)
        if isinstance(record.end, ReplyFailed):
            end = record.end
            failure = ModelFailed(end.code, end.message, timed_out=end.code == "model_timeout")
            error = as_api_error(failure).on_record_as(record.response_id)
            error.headers |= REPLAYED
            raise error
        return record.response(), _headers(record)

    async def stream(self) -> tuple[AsyncGenerator[bytes, None], dict[str, str]]:
        """The events have the same deltas as the stream of the first request."""
        record = await self.record()

        async def read_again() -> Record:
            return await read_record(self._shared, record.conversation_id, record.response_id)

        return self._streams.follow(record, read_again, -1, self._principal), _headers(record)


def _headers(record: Record) -> dict[str, str]:
    headers = position_headers(record.last.position, record.last.version)
    return {**headers, **REPLAYED, **left_out_header(record.requested)}
