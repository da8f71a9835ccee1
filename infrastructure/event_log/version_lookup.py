"""Where conversations end in the log: look-ups by primary key, all that are asked for at a time in one round trip.

Each read and each reply begins with one, so they have a line of their own: over a pool's connection and a cursor, one takes as long
as all else that the event loop does for it.
"""

import asyncio
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct

from infrastructure.event_log.columns import uuids
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool
from infrastructure.stores.postgres_pipeline import OutcomeUnknown, ServerTimedOut

ANSWER_SECONDS = 2.0
AT_ONCE = 256

_HEADS = """
    SELECT json_agg(CASE WHEN version IS NOT NULL THEN json_build_array(tenant, version, position, deleted) END ORDER BY place)
    FROM unnest($1) WITH ORDINALITY AS asked (stream, place) LEFT JOIN LATERAL (
        SELECT tenant_id, originator_version, notification_id, topic = 'conversation.deleted' FROM events
        WHERE originator_id = stream ORDER BY originator_version DESC LIMIT 1
    ) AS head (tenant, version, position, deleted) ON true
"""


class Head(Struct, frozen=True, array_like=True):
    """Where a conversation ends in the log now. `deleted`: its last event is its deletion."""

    tenant: str
    version: int
    position: int
    deleted: bool


_Asked = list[tuple[UUID, "asyncio.Future[Head | None]"]]
_read = msgspec.json.Decoder(list[Head | None]).decode


class VersionLookup:
    """For one event loop. Connects when it is first asked, and lets go of the connection with the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._line = pool.line("heads", ["uuid[]"], _HEADS)
        self._waiting: _Asked = []
        self._asking: asyncio.Task[None] | None = None

    async def of(self, conversation_id: str) -> Head | None:
        """The conversation's end, no older than the call; None where it was never started. Raises psycopg.Error."""
        answer: asyncio.Future[Head | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((uuid_of(conversation_id), answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        """Asks for all that wait, until nobody does."""
        asked: _Asked = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    heads = await self._look_up([stream for stream, _ in asked])
                except psycopg.Error as error:
                    _refuse(asked, error)
                else:
                    for (_, waiting), head in zip(asked, heads, strict=True):
                        if not waiting.done():
                            waiting.set_result(head)
        finally:
            self._asking = None
            _refuse([*asked, *self._waiting], psycopg.OperationalError("Nobody looks up any more."))
            self._waiting = []

    async def _look_up(self, streams: list[UUID]) -> list[Head | None]:
        """One round trip; another where the connection had broken while it lay idle."""
        asked = [uuids(streams)]
        try:
            answer = await self._line.call(asked, ANSWER_SECONDS)
        except OutcomeUnknown as error:
            if self._pool.closed or isinstance(error, ServerTimedOut):
                raise
            answer = await self._line.call(asked, ANSWER_SECONDS)
        assert answer is not None
        return _read(answer)


def _refuse(asked: _Asked, error: psycopg.Error) -> None:
    for _, waiting in asked:
        if not waiting.done():  # whoever asked may be gone
            waiting.set_exception(error)
