"""If an event cannot be applied, its conversation is parked. The view leaves the conversation out and continues with
other conversations.

The deletion of a parked conversation is applied, and ends the parking, except in `usage`.
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
"""Per partition of a view. If more conversations fail, the cause is probably not their events. Then the partition
waits.
"""

_DOCUMENT_ERRORS = frozenset({2, 9, 14, 28, 40, 52, 54, 56, 66, 121, 10334, 17280, 17419, 17420})
"""MongoDB's codes for an error in one document or one change:

bad value, failed to parse, type mismatch, path not viable, conflicting change, invalid field name, immutable field,
validation, too large (document or index key).
"""


class ViewDiverged(Exception):
    """A document that an event inserts exists already, or a document that the event changes is missing.

    Nothing was written. Repair the conversation, or rebuild the view.
    """

    def __init__(self, view: str, problem: str) -> None:
        super().__init__(f"The view {view} does not match the log: {problem}")


def parked_for(logged: Logged, error: Exception) -> Parked:
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
    """Whether the cause is the event or its conversation's documents. Then other events may still succeed.

    False for all errors of Redis, because the context view makes a broken snapshot again.
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
    return logged.conversation_id not in parked or is_deletion(logged)


def events_to_apply(batch: Sequence[Logged], parked: Collection[str]) -> list[Logged]:
    return [logged for logged in batch if is_applied(logged, parked)] if parked else [*batch]


def deleted_parked(batch: Sequence[Logged], parked: Collection[str]) -> set[str]:
    """The parked conversations that the batch deletes."""
    if not parked:
        return set()
    return {logged.conversation_id for logged in batch if logged.conversation_id in parked and is_deletion(logged)}
