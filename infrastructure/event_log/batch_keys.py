"""Finds which idempotency keys of a batch were used before, in the log or in the batch."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg import Cursor

from domain.access import role_of
from domain.commands import DeleteConversation, DeleteReply
from domain.conversation import Conversation
from domain.errors import ConversationNotFound
from infrastructure.event_log.append_request import Appended, AppendRequest, KeyReused, StreamName
from infrastructure.event_log.batch_plan import AppendOutcome
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.streams import Stream
from infrastructure.ids import conversation_id as conversation_id_of

StoredKey = tuple[str, str, str]
"""(tenant, subject, key). Two subjects may use the same key."""


class BatchKeys:
    """The keys of one batch. A key stored before `valid_since` counts as new."""

    def __init__(self, recorder: ConversationRecorder, valid_since: datetime) -> None:
        self._recorder = recorder
        self._valid_since = valid_since
        self._stored: dict[StoredKey, tuple[bytes, Appended]] = {}
        self._deleted: set[str] = set()
        self._in_batch: dict[StoredKey, AppendOutcome] = {}

    def read_stored(self, curs: Cursor[Any], batch: Sequence[AppendRequest]) -> None:
        keys = [_key_of(request) for request in batch if request.idempotency is not None]
        if not keys:
            return
        stored = self._recorder.select_first_answers(curs, keys, self._valid_since)
        for tenant, subject, key, fingerprint, stream_id, version, position, answer, recorded_at, is_deleted in stored:
            conversation_id = conversation_id_of(stream_id)
            if is_deleted:
                self._deleted.add(conversation_id)
            appended = Appended(
                conversation=Conversation(
                    id=conversation_id, tenant=tenant, owner="", version=version, family=conversation_id
                ),
                version=version,
                position=position,
                recorded_at=recorded_at,
                answer=answer,
                replayed=True,
            )
            self._stored[tenant, subject, key] = (fingerprint, appended)

    def first_use(self, request: AppendRequest, streams: Mapping[StreamName, Stream]) -> AppendOutcome | None:
        """The outcome if the request's key was used before. Raises KeyReused if the key was used for another request.

        Raises ConversationNotFound if the conversation of the stored answer was deleted, or is no longer shared with
        the caller. But the receipt of a deletion is returned even after the conversation was deleted.
        """
        if request.idempotency is None:
            return None
        key = _key_of(request)
        if (earlier := self._in_batch.get(key)) is not None:
            assert earlier.request.idempotency is not None
            if earlier.request.idempotency.fingerprint != request.idempotency.fingerprint:
                raise KeyReused
            return AppendOutcome(request, duplicate_of=earlier)
        if (stored := self._stored.get(key)) is not None:
            fingerprint, appended = stored
            if fingerprint != request.idempotency.fingerprint:
                raise KeyReused
            conversation_id = appended.conversation.id
            if not appended.answer:  # a deletion emptied the answer, even if the log has lost the deletion meanwhile
                raise ConversationNotFound(conversation_id)
            is_receipt = isinstance(request.command, DeleteConversation | DeleteReply)
            if conversation_id in self._deleted and not is_receipt:
                raise ConversationNotFound(conversation_id)
            if (stream := streams.get((request.principal.tenant, conversation_id))) is not None:
                state = stream.state
                if role_of(state.owner, state.shares, request.principal.actor) is None:
                    raise ConversationNotFound(conversation_id)
            return AppendOutcome(request, replayed=appended)
        return None

    def add(self, outcome: AppendOutcome) -> None:
        self._in_batch[_key_of(outcome.request)] = outcome


def _key_of(request: AppendRequest) -> StoredKey:
    assert request.idempotency is not None
    return request.principal.tenant, request.principal.subject, request.idempotency.key
