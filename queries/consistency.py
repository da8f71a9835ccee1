"""Read-your-writes: an answer shows what was committed when its request arrived, or says that something may be missing.

Views lag behind the log. So a read has four steps:

1. Look up in Postgres the last position of the conversation or tenant, and the log's incarnation.
2. Wait until the views have reached that position in this log.
3. Read the documents.
4. Read the views' positions again. If a view was reset meanwhile, documents may be missing, so the answer is a 503.

Without Postgres, the answer shows what the views have, with `X-Consistency: unverified`. A read of a conversation then
gets a 503 if the views lack the conversation. It also gets a 503 if the caller is neither the owner nor an admin,
because a share may have been withdrawn.

A read of a parked conversation gets a 503. A list that may lack a parked conversation has `X-Consistency: parked`.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from domain.errors import ConversationNotFound
from domain.events import Fork, PathBranch
from domain.paths import FIRST_BRANCH
from infrastructure.access.principal import Principal
from infrastructure.event_log.incarnation import LogMoved, LogPosition
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS, Head
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import etag
from infrastructure.stores.mongodb import Database, Document
from projections.views.catalog import MongoView
from projections.views.partitions import partition_of, position_keys
from projections.views.view_position import ViewPosition
from queries.checked_positions import CheckedPositions
from queries.log_access import LogAccess, PostgresUnavailable, conversation_parked
from queries.principal_log import PrincipalLog
from queries.tenant_views import Ids, TenantViews
from queries.view_positions import Positions, ViewPositionReader, position_at

CATCH_UP_TIMEOUT_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS: Final = 0.002
MAX_PAUSE_SECONDS: Final = 0.05


class Read(Struct, kw_only=True):
    """A read of `views` that have reached `position` in the partitions of `position_keys`.

    `incarnation`: the log's incarnation when the request arrived; empty if Postgres was unavailable
    `collections`, `versions`: the collection and the version of each view when the read started
    `complete_to`: the views showed all events up to this position, except events of parked conversations. Set only
      in a read that does not wait
    `waits`: whether the views must show what was committed when the request arrived
    `parked`: the conversations that a view had parked at some time during the read
    `repairs`: how many repairs the views had counted when the read started
    `repaired`: whether a repair ended during the read. A document may have been missing for a while
    """

    tenant: str
    views: tuple[MongoView, ...]
    position_keys: list[str]
    position: int
    incarnation: str
    complete_to: int = 0
    waits: bool = True
    collections: dict[str, str] = {}
    versions: dict[str, int] = {}
    parked: frozenset[str] = frozenset()
    repairs: int = 0
    repaired: bool = False

    @property
    def verified(self) -> bool:
        return bool(self.incarnation)

    @property
    def headers(self) -> dict[str, str]:
        """Final only after the documents were read and checked."""
        notes = {"unverified": not self.verified, "parked": self.repaired or bool(self.parked)}
        value = ", ".join(note for note, applies in notes.items() if applies)
        return {"x-consistency": value} if value else {}

    def is_satisfied_by(self, positions: Positions) -> bool:
        """Whether the views have reached `position`.

        If `position` may not cover all that was committed, the views must also be live.
        """
        return all(
            view_position.position >= self.position and ((self.verified and self.waits) or view_position.is_live)
            for view_position in self.needed(positions)
        )

    def start(self, positions: Positions) -> None:
        needed = self.needed(positions)
        self.collections = {view_position.view: view_position.collection for view_position in needed}
        self.versions = {view_position.view: view_position.version for view_position in needed}
        self.repairs = sum(view_position.repairs for view_position in needed)
        self.note_parked(positions)

    def note_parked(self, positions: Positions) -> None:
        needed = self.needed(positions)
        self.parked |= {
            conversation_id for view_position in needed for conversation_id in view_position.parked_of(self.tenant)
        }
        self.repaired = self.repaired or sum(view_position.repairs for view_position in needed) != self.repairs

    def needed(self, positions: Positions) -> list[ViewPosition]:
        return [position_at(positions, key) for key in self.position_keys]


class ConversationRead(Read, kw_only=True):
    """A read of one conversation.

    `moved_at`: the version at which the head was last moved; 0 if never
    `is_fork`: known only for an unverified read
    `forks`: where the conversation was forked, where its origin was forked, and so on; set by `read_with_origins` alone
    """

    log: PrincipalLog
    conversation_id: str
    version: int
    active_path: tuple[PathBranch, ...] = FIRST_BRANCH
    moved_at: int = 0
    is_fork: bool = False
    forks: tuple[Fork, ...] = ()

    @property
    def origins(self) -> list[str]:
        return [fork.conversation_id for fork in self.forks]

    @property
    def headers(self) -> dict[str, str]:
        return {"etag": etag(self.version), **({} if self.verified else {"x-consistency": "unverified"})}

    def note_parked(self, positions: Positions) -> None:
        """Raises ApiError 503 if the conversation or an origin is parked, or may have been during the read."""
        super().note_parked(positions)
        if not self.parked.isdisjoint((self.conversation_id, *self.origins)):
            raise conversation_parked()
        if self.repaired:
            raise _views_behind()


def may_see_unverified(principal: Principal, owner: str) -> bool:
    """For use while the shares cannot be looked up."""
    return principal.subject == owner or principal.may("admin")


class Consistency:
    """Starts and checks reads. `min_position`: a position that the views must have reached in any case."""

    def __init__(self, log: LogAccess, database: Database) -> None:
        self._log = log
        self._database = database
        self.positions = ViewPositionReader(database)
        self.checked = CheckedPositions(log)

    async def read_conversation(
        self, log: PrincipalLog, conversation_id: str, *views: MongoView, min_position: int = 0
    ) -> ConversationRead:
        """Returns once these views show all events of the conversation that are committed now.

        Raises ConversationNotFound also if the caller may not see the conversation. Raises PostgresUnavailable and ApiError 503.
        """
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
        head, positions = await asyncio.gather(
            _head(log, conversation_id), self.positions.read((*views, "conversations"))
        )
        needed: tuple[MongoView, ...] = views if head else (*views, "conversations")
        read = ConversationRead(
            log=log,
            tenant=log.tenant,
            views=needed,
            position_keys=position_keys(needed, [partition_of(conversation_id)]),
            position=max(head.position if head else 0, min_position),
            incarnation=head.incarnation if head else "",
            conversation_id=conversation_id,
            version=head.version if head else 0,
        )
        await self._wait_for_views(read, positions, deadline)
        if head is None:
            await self._take_version_of_view(read)
        elif head.moved_event:
            read.moved_at, read.active_path = head.moved_event[0], head.active_path
        return read

    async def wait_for_origins(self, read: ConversationRead) -> None:
        """Waits also for the events that are committed now in the conversation's origins.

        Raises PostgresUnavailable and ApiError 503.
        """
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
        for start in range(0, len(read.origins), MAX_BATCH_LOOKUPS):
            ends = await read.log.head_of_each(read.origins[start : start + MAX_BATCH_LOOKUPS])
            read.position = max(read.position, *(end.position for end in ends if end is not None))
        partitions = {partition_of(conversation_id) for conversation_id in (read.conversation_id, *read.origins)}
        read.position_keys = position_keys(read.views, sorted(partitions))
        await self._wait_for_views(read, await self.positions.read(read.views), deadline)

    async def read_tenant(self, tenant: str, *views: MongoView, min_position: int = 0) -> Read:
        """Returns once these views show all that the tenant has committed now, except parked conversations. Raises
        ApiError 503.
        """
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
        end, positions = await asyncio.gather(self._end(tenant), self.positions.read(views))
        read = Read(
            tenant=tenant,
            views=views,
            position_keys=position_keys(views),
            position=max(end.position, min_position),
            incarnation=end.incarnation,
        )
        await self._wait_for_views(read, positions, deadline)
        return read

    async def read_without_waiting(
        self,
        tenant: str,
        *views: MongoView,
        also_used: Sequence[MongoView] = (),
        min_position: int = 0,
        stages: Sequence[Document] = (),
    ) -> tuple[Read, list[Document]]:
        """A read of these views as they are now, and the documents that the stages add. Raises ApiError 503.

        Waits only for `min_position`, and for views that are not live. `also_used`: views that are not checked.
        """
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
        used = (*views, *also_used)
        end, (positions, documents) = await asyncio.gather(self._end(tenant), self.positions.read_with(used, stages))
        read = Read(
            tenant=tenant,
            views=views,
            position_keys=position_keys(views),
            position=min_position,
            incarnation=end.incarnation,
            waits=False,
        )
        reached = await self._wait_for_views(read, positions, deadline)
        read.complete_to = min(view_position.position for view_position in read.needed(reached))
        if reached is not positions:  # the documents may be older than `reached`
            _, documents = await self.positions.read_with(used, stages)
        return read, documents

    async def check(self, read: Read, positions: Positions | None = None) -> None:
        """Raises ApiError 503 if the documents of the read may be incomplete.

        `positions` must have been read after the documents.
        """
        positions = await self.positions.read_now(read.views) if positions is None else positions
        read.note_parked(positions)
        if not await self._shows(positions, read) or await self._was_dropped(read, positions):
            raise _views_behind()

    async def check_not_deleted(self, read: ConversationRead) -> None:
        """Raises ConversationNotFound if the conversation was deleted since the read started.

        Does nothing while Postgres is unavailable.
        """
        if not read.verified:
            return
        try:
            head = await read.log.head(read.conversation_id)
        except PostgresUnavailable:
            return
        if head is None or head.deleted:
            raise ConversationNotFound(read.conversation_id)

    async def _end(self, tenant: str) -> LogPosition:
        """While Postgres is unavailable, position 0 without an incarnation."""
        try:
            return await self._log.end_of_tenant(tenant)
        except PostgresUnavailable:
            return LogPosition()

    async def _shows(self, positions: Positions, read: Read) -> bool:
        """Raises ApiError 503 if the log may have moved back since the read started."""
        if not read.is_satisfied_by(positions):
            return False
        if not read.verified:
            return True
        try:
            return await self.checked.are_of(read.incarnation, read.needed(positions))
        except LogMoved as error:
            raise _views_behind() from error  # `position` may be of another log

    async def _wait_for_views(self, read: Read, positions: Positions, deadline: float) -> Positions:
        """Also starts the read. Raises ApiError 503 at the deadline."""
        pause = FIRST_PAUSE_SECONDS
        while not await self._shows(positions, read):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise _views_behind()
            await asyncio.sleep(min(pause, remaining))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            positions = await self.positions.read(read.views)
        read.start(positions)
        return positions

    async def _was_dropped(self, read: Read, positions: Positions) -> bool:
        current = {positions[key].collection for key in read.position_keys}
        replaced = {collection for collection in read.collections.values() if collection not in current}
        return bool(replaced) and not replaced <= await self.positions.collections()

    async def _take_version_of_view(self, read: ConversationRead) -> None:
        """Raises PostgresUnavailable if the view lacks the conversation, because the view may be behind.

        Raises PostgresUnavailable also if the caller is neither owner nor admin, because the view may have old shares.
        """
        views = TenantViews(self._database, read.tenant)
        fields = [{"$project": {"version": 1, "owner": 1, "path": 1, "moved_at": 1, "forked_from": 1}}]
        documents = await views.aggregate(read.collections["conversations"], Ids([read.conversation_id]), fields)
        found = await documents.to_list()
        if not found or not may_see_unverified(read.log.principal, found[0]["owner"]):
            await self.check(read)
            raise PostgresUnavailable
        read.version = found[0]["version"]
        read.is_fork = found[0]["forked_from"] is not None
        if "path" in found[0]:
            read.active_path = msgspec.convert(found[0]["path"], tuple[PathBranch, ...])
            read.moved_at = found[0]["moved_at"]


async def _head(log: PrincipalLog, conversation_id: str) -> Head | None:
    """None while Postgres is unavailable. Raises ConversationNotFound."""
    try:
        return await log.existing_head(conversation_id)
    except PostgresUnavailable:
        return None


def _views_behind() -> ApiError:
    return ApiError(
        503,
        "The views do not show the latest writes yet, or they were rebuilt during the read. Try again.",
        code="read_models_behind",
    )
