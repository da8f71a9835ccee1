"""Parked conversations: when an event cannot be applied, the view leaves its conversation out and continues with the others.

A view ignores the events of a parked conversation, except its deletion. The deletion is applied at once, and ends the parking (but not
in `usage`). Reads of a parked conversation get an error, and lists say that they may lack it. `rebuild/repair.py` writes the
conversation again from the log.
"""

import time
from collections.abc import Collection, Sequence

from bson.errors import BSONError
from psycopg import Error as PostgresError
from pymongo.errors import BulkWriteError, PyMongoError
from redis.exceptions import RedisError

from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.recorded import Logged
from projections.views.event_writes import is_deletion
from projections.views.view_position import Parked

MAX_PARKED = 100
"""A projector parks at most this many conversations in one partition of a view. If more fail, the cause is probably not the events, so the view waits."""

_DOCUMENT_ERRORS = frozenset({2, 9, 14, 28, 40, 52, 54, 56, 66, 121, 10334, 17280, 17419, 17420})
"""MongoDB's codes for an error in one document or one change:

bad value, failed to parse, type mismatch, path not viable, conflicting change, invalid field name, immutable field, validation, too
large (a document before or after the change, or a key of an index).
"""


class ViewDiverged(Exception):
    """A view does not match the log: a document that an event inserts exists already, or one that it changes is missing.

    Nothing was written. Repair the conversation, or rebuild the view.
    """

    def __init__(self, view: str, problem: str) -> None:
        super().__init__(f"The view {view} does not match the log: {problem}")


def parked_for(logged: Logged, error: Exception) -> Parked:
    """The entry for a conversation whose event cannot be applied."""
    return Parked(
        tenant=logged.tenant,
        position=logged.position,
        version=logged.version,
        topic=logged.topic,
        error=type(error).__name__,
        # The message of any other error could quote content.
        message=str(error) if isinstance(error, ViewDiverged) else None,
        at=time.time_ns() // 1_000,
    )


def is_caused_by_event(error: Exception) -> bool:
    """Whether the cause is the event or the documents of its conversation. Then other events may still succeed.

    False if a store refuses every write (full, read-only, access denied) or cannot be reached, or if this process has no memory left. Also
    False for every error of Redis: an error about a single snapshot's key is not raised, because the context view makes that snapshot again.
    """
    match error:
        case UnreadableEvent() | ViewDiverged():
            return True
        case BulkWriteError():
            codes = [failed.get("code") for failed in error.details.get("writeErrors", ())]
            return bool(codes) and _DOCUMENT_ERRORS.issuperset(codes)
        case BSONError() | OverflowError():
            return True
        case PyMongoError() | PostgresError() | RedisError() | OSError() | MemoryError():
            return False
        case _:
            return True  # our own code failed on the event


def is_applied(logged: Logged, parked: Collection[str]) -> bool:
    """Whether a view with these parked conversations applies the event."""
    return logged.conversation_id not in parked or is_deletion(logged)


def events_to_apply(batch: Sequence[Logged], parked: Collection[str]) -> list[Logged]:
    """The events of a batch that a view with these parked conversations applies."""
    return [logged for logged in batch if is_applied(logged, parked)] if parked else [*batch]


def deleted_parked(batch: Sequence[Logged], parked: Collection[str]) -> set[str]:
    """The parked conversations that a batch deletes."""
    if not parked:
        return set()
    return {logged.conversation_id for logged in batch if logged.conversation_id in parked and is_deletion(logged)}
