"""The log as one request reads it: only the conversations of the caller's tenant.

Only `readable_head`, `existing_head`, `reply_requested` and `file_in_items` check whether the caller may see a
conversation. A path may go through conversations that the caller may not see.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from context.last_shown import with_last_shown
from context.readable_files import FoundFile, files_in_items
from domain.errors import ConversationNotFound
from domain.events import ReplyDeleted
from infrastructure.access.principal import Principal
from infrastructure.contents.file_store import FileStore
from infrastructure.event_log.conversation_reader import MAX_PAGE_BYTES
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from queries.log_access import LogAccess

T = TypeVar("T")


class PrincipalLog:
    """Implements the `Reader` protocols of `context/` and `replies/`. Every method raises what `LogAccess.look_up`
    raises.
    """

    def __init__(self, access: LogAccess, principal: Principal) -> None:
        self._access = access
        self.principal = principal
        self.tenant = principal.tenant

    def shared(self) -> "PrincipalLog":
        """The log as an admin of the tenant reads it. The caller must check who may see the result."""
        return PrincipalLog(self._access, Principal(self.tenant, "", frozenset({"admin"})))

    async def head(self, conversation_id: str) -> Head | None:
        """The head (last event), also of a deleted conversation; None if it was never started."""
        return await self._look_up_version(lambda reader: reader.head(conversation_id))

    async def head_of_each(self, conversation_ids: Sequence[str]) -> list[Head | None]:
        """At most MAX_BATCH_LOOKUPS conversations, in one round trip."""
        return await self._look_up_version(lambda reader: reader.head_of_each(conversation_ids))

    async def readable_head(self, conversation_id: str) -> Head | None:
        """None also for a deleted conversation, and for one that the caller may not see."""
        return await self._look_up_version(lambda reader: reader.readable_head(conversation_id))

    async def existing_head(self, conversation_id: str) -> Head:
        """As `readable_head`, but raises ConversationNotFound in place of None."""
        head = await self.readable_head(conversation_id)
        if head is None:
            raise ConversationNotFound(conversation_id)
        return head

    async def conversation(
        self,
        conversation_id: str,
        *,
        limit: int,
        after: int = 0,
        until: int | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> list[Recorded]:
        """The events with `after` < version <= `until`, ascending.

        A page ends after about `max_bytes` of event data, but has at least one event if there is one.
        """
        return await self._look_up(
            lambda reader: reader.conversation(
                conversation_id, limit=limit, after=after, until=until, max_bytes=max_bytes
            )
        )

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """The events with version <= `until`, newest first."""
        return await self._look_up(
            lambda reader: reader.conversation_backwards(conversation_id, until=until, limit=limit)
        )

    async def starts(self, conversation_ids: Collection[str]) -> list[Recorded]:
        """The first events, also of deleted conversations."""
        return await self._look_up(lambda reader: reader.starts(conversation_ids))

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        """The events of these items or responses with version <= `until`, ascending."""
        return await self._look_up(lambda reader: reader.items(conversation_id, item_ids, until=until))

    async def content_row(self, sha256: bytes, number: int) -> bytes | None:
        return await self._look_up(lambda reader: reader.content_row(sha256, number))

    async def head_moved(self, conversation_id: str, *, until: int) -> Recorded | None:
        return await self._look_up(lambda reader: reader.head_moved(conversation_id, until=until))

    async def summary_changes(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        """The events with version <= `until`, newest first."""
        return await self._look_up(lambda reader: reader.summary_changes(conversation_id, until=until, limit=limit))

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:
        """Which of these ids belong to retracted items, deleted responses, or deleted conversations. `inherited_by`: as in
        ConversationReader.
        """
        return await self._look_up(lambda reader: reader.deleted_items(item_ids, inherited_by))

    async def file_in_items(self, store: FileStore, file_id: str) -> FoundFile | None:
        """A file in an item that the caller may read."""
        found = await self._look_up(lambda reader: files_in_items(reader, store, [file_id]))
        return found.get(file_id)

    async def deletions(self, conversation_ids: Sequence[str], *, after: int) -> list[Recorded]:
        """The events after position `after` that delete or restore content."""
        return await self._look_up(lambda reader: reader.deletions(conversation_ids, after=after))

    async def deleted_responses(self, conversation_id: str, response_ids: Sequence[str]) -> frozenset[str]:
        return await self._look_up(lambda reader: reader.deleted_responses(conversation_id, response_ids))

    async def settings_events(self, conversation_id: str, *, until: int) -> list[Recorded]:
        return await self._look_up(lambda reader: reader.settings_events(conversation_id, until=until))

    async def conversation_of(self, response_id: str) -> str | None:
        return await self._look_up(lambda reader: reader.conversation_of(response_id))

    async def reply_requested(self, response_id: str) -> Recorded | None:
        """The response's ReplyRequested with the context that was last shown to the model, or its ReplyQueued.

        None also if the response or its conversation was deleted, or if the caller may not see the conversation.
        """

        async def lookup(reader: PrincipalReader) -> Recorded | None:
            conversation_id = await reader.conversation_of(response_id)
            if conversation_id is None or await reader.readable_head(conversation_id) is None:
                return None
            events = await reader.items(conversation_id, [response_id])
            if not events or any(isinstance(recorded.event, ReplyDeleted) for recorded in events):
                return None
            return with_last_shown(events)

        return await self._look_up(lookup)

    async def requested_even_if_deleted(self, response_id: str) -> Recorded | None:
        """As `reply_requested`, also for a deleted response. Does not check who may see the response.

        None also if the response's events have more than MAX_PAGE_BYTES.
        """
        events = await self._look_up(lambda reader: reader.items_of_tenant([response_id], MAX_PAGE_BYTES))
        return with_last_shown(events) if events else None

    async def _look_up(self, lookup: Callable[[PrincipalReader], Awaitable[T]]) -> T:
        return await self._access.look_up(lambda reader: lookup(reader.of(self.principal)), self.tenant)

    async def _look_up_version(self, lookup: Callable[[PrincipalReader], Awaitable[T]]) -> T:
        return await self._access.look_up_version(lambda reader: lookup(reader.of(self.principal)))
