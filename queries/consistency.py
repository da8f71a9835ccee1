"""Read your own writes: no answer is older than what was committed when its read arrived, or it says so. For `queries/` only.

A read asks Postgres where the conversation (or the whole log) ends, and waits until the views it reads have come that far.
With Postgres away it goes on, and the answer says `X-Consistency: unverified`. A view that is emptied to be rebuilt while a
read is under way is noticed by its position, which is looked at once more behind the documents.
"""

import asyncio
import time
from enum import Enum
from typing import Final, TypeVar

from msgspec import Struct

from domain.errors import ConversationNotFound
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.mongodb import Database
from projections.read_models import View, key
from queries.log_access import LogAccess, LogAway, Question
from queries.positions import NOWHERE, Places, Positions

WAIT_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.05

T = TypeVar("T")


class _Away(Enum):
    AWAY = 0


class Read(Struct, frozen=True, kw_only=True):
    """A read that may go ahead on `views`, which have all come to `position`.

    `verified`: that is all that was committed when it arrived. Otherwise nobody knows, and a view must at least be whole.
    """

    views: tuple[View, ...]
    position: int
    verified: bool

    @property
    def headers(self) -> dict[str, str]:
        """What its answer says of itself."""
        return {} if self.verified else {"x-consistency": "unverified"}

    def holds(self, seen: Places) -> bool:
        """Whether the views are still, or by now, where this read needs them."""
        found = [seen.get(view, NOWHERE) for view in self.views]
        return all(place.position >= self.position and (self.verified or place.live) for place in found)


class ConversationRead(Read, frozen=True, kw_only=True):
    """A read of one conversation, at its `version`."""

    conversation_id: str
    version: int

    @property
    def headers(self) -> dict[str, str]:
        return {"etag": etag(self.version), **({} if self.verified else {"x-consistency": "unverified"})}


class Consistency:
    """Makes reads current. `min_position` is what the caller's `X-Min-Position` asks for; 0 asks for nothing."""

    def __init__(self, log: LogAccess, database: Database) -> None:
        self._log = log
        self._conversations = database["conversations"]
        self.positions = Positions(database)

    async def conversation(
        self, tenant: str, conversation_id: str, *views: View, min_position: int = 0
    ) -> ConversationRead:
        """Returns when these views show the conversation as it was committed when this was called, or later.

        Raises ConversationNotFound (never started, deleted, another tenant's), ApiError 503 when the views stay behind.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        head, seen = await asyncio.gather(self._ask(lambda reader: reader.head(conversation_id)), self.positions.read())
        if head is _Away.AWAY:
            known = Read(views=(*views, "conversations"), position=min_position, verified=False)
            await self._reach(known, seen, deadline)
            return await self._unverified(tenant, conversation_id, known)
        if head is None or head.tenant != tenant or head.deleted:
            raise ConversationNotFound(conversation_id)
        read = ConversationRead(
            views=views,
            position=max(head.position, min_position),
            verified=True,
            conversation_id=conversation_id,
            version=head.version,
        )
        await self._reach(read, seen, deadline)
        return read

    async def everything(self, *views: View, min_position: int = 0) -> Read:
        """Returns when these views show all that was committed when this was called. Raises ApiError 503."""
        deadline = time.monotonic() + WAIT_SECONDS
        last, seen = await asyncio.gather(self._ask(lambda reader: reader.last_position()), self.positions.read())
        if last is _Away.AWAY:
            read = Read(views=views, position=min_position, verified=False)
        else:
            await self._check_not_ahead(views, seen, last)
            read = Read(views=views, position=max(last, min_position), verified=True)
        await self._reach(read, seen, deadline)
        return read

    async def check(self, read: Read, seen: Places | None = None) -> None:
        """Raises ApiError 503 when a view was reset since the read began. `seen`: places that were read behind the documents."""
        if not read.holds(await self.positions.read_now() if seen is None else seen):
            raise _behind()

    async def check_not_deleted(self, read: ConversationRead) -> None:
        """Raises ConversationNotFound when the conversation was deleted since the read began: what was read may be a rest."""
        head = await self._ask(lambda reader: reader.head(read.conversation_id)) if read.verified else _Away.AWAY
        if head is None or (head is not _Away.AWAY and head.deleted):
            raise ConversationNotFound(read.conversation_id)

    async def _unverified(self, tenant: str, conversation_id: str, known: Read) -> ConversationRead:
        """A read at the version that the view of conversations knows."""
        document = await self._conversations.find_one({"_id": key(tenant, conversation_id)}, {"version": 1})
        if document is None:
            await self.check(known)
            raise ConversationNotFound(conversation_id)
        return ConversationRead(
            views=known.views,
            position=known.position,
            verified=False,
            conversation_id=conversation_id,
            version=document["version"],
        )

    async def _check_not_ahead(self, views: tuple[View, ...], seen: Places, last: int) -> None:
        """Raises ApiError 503 when a view shows more than the log has: Postgres lost its end, and the projector will begin anew."""
        furthest = max(seen.get(view, NOWHERE).position for view in views)
        if furthest <= last:
            return
        now = await self._ask(lambda reader: reader.last_position())  # the places were read before this
        if now is not _Away.AWAY and furthest > now:
            raise ApiError(
                503, "The read models show what the log has no more; they are made anew.", code="read_models_ahead"
            )

    async def _ask(self, question: Question[T]) -> T | _Away:
        try:
            return await self._log.ask(question)
        except LogAway:
            return _Away.AWAY

    async def _reach(self, read: Read, seen: Places, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not read.holds(seen):
            left = deadline - time.monotonic()
            if left <= 0:
                raise _behind()
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            seen = await self.positions.read()


def _behind() -> ApiError:
    return ApiError(
        503, "The read models do not show yet what was written; they are catching up.", code="read_models_behind"
    )
