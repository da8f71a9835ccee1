"""Read your own writes: no answer is older than what was committed when its read arrived, or it says so. For `queries/` only.

A read asks Postgres where the conversation (or the whole log) ends, and waits until the views it reads have come that far.
With Postgres away it goes on, and the answer says `X-Consistency: unverified`.
"""

import asyncio
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, TypeVar

import pymongo
from msgspec import Struct
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from domain.errors import ConversationNotFound
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from projections.read_models import POSITIONS, VIEWS, Document, View, key
from queries.log_access import LogAccess, LogAway, Question

WAIT_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.05

T = TypeVar("T")


class _Away(Enum):
    AWAY = 0


class Read(Struct, frozen=True, kw_only=True):
    """A read that may go ahead. `verified`: the views hold all that was committed when it arrived."""

    verified: bool

    @property
    def headers(self) -> dict[str, str]:
        """What its answer says of itself."""
        return {} if self.verified else {"x-consistency": "unverified"}


class ConversationRead(Read, frozen=True, kw_only=True):
    """A read of one conversation, at its `version`."""

    version: int

    @property
    def headers(self) -> dict[str, str]:
        return {"etag": etag(self.version), **({} if self.verified else {"x-consistency": "unverified"})}


class Positions:
    """How far each view has come. Those who ask while a read is under way share it: a position only ever rises."""

    def __init__(self, views: AsyncDatabase[Document]) -> None:
        self._collection: AsyncCollection[Document] = views[POSITIONS]
        self._reading: asyncio.Task[dict[str, int]] | None = None

    async def read(self) -> Mapping[str, int]:
        """The position of each view; one that has none yet is missing. Raises PyMongoError."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_done)
        return await asyncio.shield(self._reading)

    async def _read(self) -> dict[str, int]:
        with pymongo.timeout(WAIT_SECONDS):
            documents = await self._collection.find({"_id": {"$in": VIEWS}}, {"position": 1}).to_list()
        return {document["_id"]: document["position"] for document in documents}

    def _read_done(self, task: asyncio.Task[Any]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # all who asked may be gone: then nobody else looks at it


class Consistency:
    """Makes reads current. `min_position` is what the caller's `X-Min-Position` asks for; 0 asks for nothing."""

    def __init__(self, log: LogAccess, views: AsyncDatabase[Document]) -> None:
        self._log = log
        self._conversations: AsyncCollection[Document] = views["conversations"]
        self.positions = Positions(views)

    async def conversation(
        self, tenant: str, conversation_id: str, *views: View, min_position: int = 0
    ) -> ConversationRead:
        """Returns when these views show the conversation as it was committed when this was called, or later.

        Raises ConversationNotFound (never started, deleted, another tenant's), ApiError 503 when the views stay behind.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        head, seen = await asyncio.gather(self._ask(lambda reader: reader.head(conversation_id)), self.positions.read())
        if head is _Away.AWAY:
            await self._reach(views, min_position, seen, deadline)
            document = await self._conversations.find_one({"_id": key(tenant, conversation_id)}, {"version": 1})
            if document is None:
                raise ConversationNotFound(conversation_id)
            return ConversationRead(version=document["version"], verified=False)
        if head is None or head.tenant != tenant or head.deleted:
            raise ConversationNotFound(conversation_id)
        await self._reach(views, max(head.position, min_position), seen, deadline)
        return ConversationRead(version=head.version, verified=True)

    async def everything(self, *views: View, min_position: int = 0) -> Read:
        """Returns when these views show all that was committed when this was called. Raises ApiError 503."""
        deadline = time.monotonic() + WAIT_SECONDS
        last, seen = await asyncio.gather(self._ask(lambda reader: reader.last_position()), self.positions.read())
        known = 0 if last is _Away.AWAY else last
        await self._reach(views, max(known, min_position), seen, deadline)
        return Read(verified=last is not _Away.AWAY)

    async def _ask(self, question: Question[T]) -> T | _Away:
        try:
            return await self._log.ask(question)
        except LogAway:
            return _Away.AWAY

    async def _reach(self, views: tuple[View, ...], position: int, seen: Mapping[str, int], deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS
        while any(seen.get(view, 0) < position for view in views):
            left = deadline - time.monotonic()
            if left <= 0:
                raise ApiError(
                    503, "The read models are behind what was written; they are catching up.", code="read_models_behind"
                )
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            seen = await self.positions.read()
