"""Read your own writes: no answer is older than what was committed when its read arrived, or it says so. For `queries/` only.

A read asks Postgres where the conversation (or the whole log) ends, and waits until the views it reads have come that far.
With Postgres away it goes on, and the answer says `X-Consistency: unverified`. A view that begins anew while a
read is under way is noticed by its position, which is looked at once more behind the documents. What a view has parked is not
shown: 503 `conversation_parked`; a list that it may be missing from, or stand in as it was, says `X-Consistency: parked`.
"""

import asyncio
import time
from enum import Enum
from typing import Final, TypeVar

from msgspec import Struct

from domain.errors import ConversationNotFound
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.stores.mongodb import Database
from projections.views.catalog import MongoView
from projections.views.partitions import partition_of, position_keys, view_of_key
from projections.views.view_position import ViewPosition
from projections.views.writes import document_key
from queries.log_access import LogAccess, LogAway, Question, conversation_parked
from queries.view_positions import Positions, ViewPositions, position_at, positions_of

WAIT_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS: Final = 0.002
MAX_PAUSE_SECONDS: Final = 0.05

T = TypeVar("T")


class _Away(Enum):
    AWAY = 0


class Read(Struct, kw_only=True):
    """A read that may go ahead on `views`, which have all come to `position` in the buckets that it needs: `places`.

    `verified`: that is all that was committed when it arrived. Otherwise nobody knows, and a view must at least be whole.
    `parked`: the tenant's conversations that were parked in its views at some moment of it. `repairs`: how many had come back
    to its views when it began; `repaired`: another one did since.
    """

    tenant: str
    views: tuple[MongoView, ...]
    places: list[str]
    position: int
    verified: bool
    parked: frozenset[str] = frozenset()
    repairs: int = 0
    repaired: bool = False
    collections: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """What its answer says of itself; asked for behind the documents, since it may be they that tell."""
        said = {"unverified": not self.verified, "parked": self.repaired or bool(self.parked)}
        return {"x-consistency": ", ".join(filter(said.get, said))} if any(said.values()) else {}

    def holds(self, seen: Positions) -> bool:
        """Whether the views are still, or by now, where this read needs them."""
        return all(place.position >= self.position and (self.verified or place.is_live) for place in self._places(seen))

    def look(self, seen: Positions, *, begins: bool = False) -> None:
        """Notes what is parked, and what came back from it: documents that were gone for a while."""
        found = self._places(seen)
        self.parked |= {ident for place in found for ident in place.parked_of(self.tenant)}
        repairs = sum(place.repairs for place in found)
        if begins:
            self.repairs = repairs
            for name, place in zip(self.places, found, strict=True):
                self.collections[view_of_key(name)] = place.collection
        self.repaired = self.repaired or repairs != self.repairs

    def _places(self, seen: Positions) -> list[ViewPosition]:
        return [position_at(seen, name) for name in self.places]


class ConversationRead(Read, kw_only=True):
    """A read of one conversation, at its `version`. What else is parked is not its business."""

    conversation_id: str
    version: int

    @property
    def headers(self) -> dict[str, str]:
        return {"etag": etag(self.version), **({} if self.verified else {"x-consistency": "unverified"})}

    def look(self, seen: Positions, *, begins: bool = False) -> None:
        """Raises ApiError 503 where the conversation is parked, or may just have come back."""
        super().look(seen, begins=begins)
        if self.conversation_id in self.parked:
            raise conversation_parked()
        if self.repaired:
            raise _behind()


class Consistency:
    """Makes reads current. `min_position` is what the caller's `X-Min-Position` asks for; 0 asks for nothing."""

    def __init__(self, log: LogAccess, database: Database) -> None:
        self._log = log
        self._database = database
        self.positions = ViewPositions(database)

    async def conversation(
        self, tenant: str, conversation_id: str, *views: MongoView, min_position: int = 0
    ) -> ConversationRead:
        """Returns when these views show the conversation as it was committed when this was called, or later.

        Raises ConversationNotFound (never started, deleted, another tenant's), ApiError 503 when the views stay behind or have
        it parked.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        head, seen = await asyncio.gather(self._ask(lambda reader: reader.head(conversation_id)), self.positions.read())
        if head is not _Away.AWAY and (head is None or head.tenant != tenant or head.deleted):
            raise ConversationNotFound(conversation_id)
        known = None if head is _Away.AWAY else head
        needed: tuple[MongoView, ...] = views if known else (*views, "conversations")
        read = ConversationRead(
            tenant=tenant,
            views=needed,
            places=position_keys(needed, [partition_of(conversation_id)]),
            position=max(known.position if known else 0, min_position),
            verified=known is not None,
            conversation_id=conversation_id,
            version=known.version if known else 0,
        )
        await self._reach(read, seen, deadline)
        if known is None:
            read.version = await self._version(read)
        return read

    async def everything(self, tenant: str, *views: MongoView, min_position: int = 0) -> Read:
        """Returns when these views show all that was committed when this was called, but for what is parked.

        Raises ApiError 503.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        last, seen = await asyncio.gather(self._ask(lambda reader: reader.last_position()), self.positions.read())
        if last is _Away.AWAY:
            read = Read(tenant=tenant, views=views, places=position_keys(views), position=min_position, verified=False)
        else:
            await self._check_not_ahead(views, seen, last)
            read = Read(
                tenant=tenant, views=views, places=position_keys(views), position=max(last, min_position), verified=True
            )
        await self._reach(read, seen, deadline)
        return read

    async def check(self, read: Read, seen: Positions | None = None) -> None:
        """Raises ApiError 503 when a view was reset since the read began, or what is read was parked.

        `seen`: places that were read behind the documents.
        """
        seen = await self.positions.read_now() if seen is None else seen
        read.look(seen)
        if not read.holds(seen) or await self._was_dropped(read, seen):
            raise _behind()

    async def _was_dropped(self, read: Read, seen: Positions) -> bool:
        """Whether a collection is gone by now that documents were read from: another took its place, and it was not kept."""
        shown = {seen[name].collection for name in read.places}
        gone = {name for name in read.collections.values() if name not in shown}
        return bool(gone) and not gone <= await self.positions.collections()

    async def check_not_deleted(self, read: ConversationRead) -> None:
        """Raises ConversationNotFound when the conversation was deleted since the read began: what was read may be a rest."""
        head = await self._ask(lambda reader: reader.head(read.conversation_id)) if read.verified else _Away.AWAY
        if head is None or (head is not _Away.AWAY and head.deleted):
            raise ConversationNotFound(read.conversation_id)

    async def _version(self, read: ConversationRead) -> int:
        """The version that the view of conversations knows. Raises ConversationNotFound."""
        ident = document_key(read.tenant, read.conversation_id)
        document = await self._database[read.collections["conversations"]].find_one({"_id": ident}, {"version": 1})
        if document is None:
            await self.check(read)
            raise ConversationNotFound(read.conversation_id)
        version: int = document["version"]
        return version

    async def _check_not_ahead(self, views: tuple[MongoView, ...], seen: Positions, last: int) -> None:
        """Raises ApiError 503 when a view shows more than the log has: Postgres lost its end, and the projector will begin anew."""
        furthest = max(place.position for view in views for place in positions_of(seen, view))
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

    async def _reach(self, read: Read, seen: Positions, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not read.holds(seen):
            left = deadline - time.monotonic()
            if left <= 0:
                raise _behind()
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            seen = await self.positions.read()
        read.look(seen, begins=True)


def _behind() -> ApiError:
    return ApiError(
        503, "The read models do not show yet what was written; they are catching up.", code="read_models_behind"
    )
