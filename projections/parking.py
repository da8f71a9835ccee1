"""Parked conversations: an event that can not be applied sets its conversation aside in a view, and the view goes on.

A view leaves out the events of what it has parked, all but a deletion: that takes effect at once, and ends the parking.
Nothing is skipped: whoever reads what is parked is told so, and `repair.py` brings it back from the log.
"""

import time
from collections.abc import Collection, Sequence

import redis.exceptions
from bson.errors import BSONError
from psycopg import Error as PostgresError
from pymongo.errors import BulkWriteError, PyMongoError

from infrastructure.event_log.codec import UnreadableEvent
from infrastructure.event_log.recorded import Logged
from projections.views.event_writes import is_deletion
from projections.views.view_position import Parked

MAX_PARKED = 100
"""Conversations of one view. Where more can not be applied, it is not they that are at fault: the view stops."""

_DOCUMENT_AT_FAULT = frozenset({2, 9, 14, 28, 40, 52, 54, 56, 66, 121, 10334, 17280, 17419, 17420})
"""What MongoDB answers when it is the document or the change that it does not take, and not the whole store that takes nothing.

Bad value, does not parse, type mismatch, path not viable, conflicting change, a name that must not be, immutable field,
validation, too large (before or after the change).
"""

_SNAPSHOT_AT_FAULT = ("WRONGTYPE", "user_script")
"""What Redis says when it is a snapshot that can not be changed: it is none, or our script ran into something in it."""


class ViewDiverged(Exception):
    """A view does not hold what the log says it must: a document is there that an event inserts, or is gone that one changes.

    Nothing was written. Rebuild the view.
    """

    def __init__(self, view: str, what: str) -> None:
        super().__init__(f"The view {view} is not what its position says: {what}")


def parked_for(logged: Logged, error: Exception) -> Parked:
    """The entry of a conversation whose event can not be applied."""
    return Parked(
        tenant=logged.tenant,
        position=logged.position,
        version=logged.version,
        topic=logged.topic,
        error=type(error).__name__,
        # Of other errors nobody knows what they quote.
        message=str(error) if isinstance(error, ViewDiverged) else None,
        at=time.time_ns() // 1_000,
    )


def is_of_the_event(error: Exception) -> bool:
    """Whether an error lies in the event, or in what a view holds of its conversation: another event may fare better.

    A store that refuses whatever comes (full, read-only, access denied) is no reason to park anything.
    """
    match error:
        case UnreadableEvent() | ViewDiverged():
            return True
        case BulkWriteError():
            codes = [failed.get("code") for failed in error.details.get("writeErrors", ())]
            return bool(codes) and _DOCUMENT_AT_FAULT.issuperset(codes)
        case redis.exceptions.ResponseError():
            said = str(error).rpartition("caused error: ")[2]  # in front of it a pipeline quotes the command
            return any(sign in said for sign in _SNAPSHOT_AT_FAULT)
        case BSONError() | OverflowError():
            return True
        case PyMongoError() | PostgresError() | redis.exceptions.RedisError() | OSError() | MemoryError():
            return False
        case _:
            return True  # our own code could not make anything of it


def due(batch: Sequence[Logged], parked: Collection[str]) -> list[Logged]:
    """What of a batch is to be applied: all but the events of parked conversations, of these their deletion."""
    return (
        [logged for logged in batch if logged.conversation_id not in parked or is_deletion(logged)]
        if parked
        else [*batch]
    )


def released(batch: Sequence[Logged], parked: Collection[str]) -> set[str]:
    """The parked conversations that a batch deletes."""
    return {it.conversation_id for it in batch if it.conversation_id in parked and is_deletion(it)} if parked else set()
