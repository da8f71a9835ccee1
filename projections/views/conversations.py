"""The view `conversations`: one document per conversation.

`shared_with`: `tenant`, or `subject:` followed by the subject, for each share
`activity`: the key that lists by activity are sorted by (`activity_key`)
`title_by`: `person` or `model`; null without a title
`lists`: the terms that lists are filtered by (`list_terms.py`)
`first`: the first item on branch 0, or null if there is no item, or if the fork inherits items
`running`: the position of the ReplyRequested of each reply in progress, by response id
`path`, `moved_at`: the active path, and the version of the last HeadMoved; absent before the first HeadMoved
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from domain.events import (
    REPLY_ENDS,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationShared,
    ConversationStarted,
    ConversationUnshared,
    Fork,
    HeadMoved,
    ItemAppended,
    ItemRestored,
    ItemRetracted,
    ReplyRequested,
    Share,
)
from infrastructure.event_log.recorded import Logged
from infrastructure.ids import uuid_of
from projections.views.list_terms import (
    METADATA_TERMS,
    SHARE_TERMS,
    TITLE_TERMS,
    list_terms,
    metadata_terms,
    share_terms,
    title_terms,
)
from projections.views.writes import Document, Insert, Update, Write, document_key, metadata_pairs, microseconds

WITH_TENANT: Final = "tenant"
"""The share with everyone of the tenant."""


def conversation_writes(logged: Logged) -> Iterator[Write]:
    event = logged.event
    recorded_at = microseconds(logged.recorded_at)
    key = document_key(logged.tenant, logged.conversation_id)
    progress: Document = {
        "version": logged.version,
        "position": logged.position,
        "updated_at": recorded_at,
        "activity": activity_key(recorded_at, logged.conversation_id),
    }
    match event:
        case ConversationStarted():
            fork = event.forked_from
            yield Insert(
                "conversations",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "id": logged.conversation_id,
                    "owner": event.owner,
                    "family": event.family,
                    "listed": event.listed,
                    "archived": False,
                    "status": "active",
                    "title": event.title,
                    "title_by": None if event.title is None else "person",
                    "instructions": event.instructions,
                    "metadata": metadata_pairs(event.metadata),
                    "context_policy": msgspec.to_builtins(event.context_policy),
                    "created_at": recorded_at,
                    "branch": 0,
                    "shared_with": [],
                    "lists": list_terms(event.owner, event.metadata, event.title),
                    "head": fork.item_id if fork else None,
                    "depth": fork.depth if fork else 0,
                    "first": None,
                    "items": 0,
                    "forked_from": _forked_from(fork) if fork else None,
                    "running": {},
                    **progress,
                },
            )
        case ConversationDescribed():
            names = ("instructions", "context_policy", "listed", "archived")
            changes = {
                name: msgspec.to_builtins(value) for name in names if (value := getattr(event, name)) is not UNSET
            }
            if event.metadata is not UNSET:
                changes |= {"metadata": metadata_pairs(event.metadata), METADATA_TERMS: metadata_terms(event.metadata)}
            if event.title is not UNSET:
                title_by = None if event.title is None else event.title_by
                changes |= {"title": event.title, "title_by": title_by, TITLE_TERMS: title_terms(event.title)}
            yield Update("conversations", key, {**changes, **progress})
        case ItemAppended():
            head = {} if event.aside else {"branch": event.branch, "head": event.item_id, "depth": event.depth}
            first = {"first": event.item_id} if event.parent_id is None and event.branch == 0 else {}
            yield Update("conversations", key, {**head, **first, **progress}, {"items": 1})
        case ItemRetracted(inherited=False):
            yield Update("conversations", key, progress, {"items": -1})
        case ItemRestored(inherited=False):
            yield Update("conversations", key, progress, {"items": 1})
        case HeadMoved():
            moved = {
                "head": event.item_id,
                "depth": event.depth,
                "path": [msgspec.to_builtins(each) for each in event.path],
            }
            yield Update("conversations", key, {**moved, "moved_at": logged.version, **progress})
        case ReplyRequested():
            running = {f"running.{event.response_id}": logged.position}
            yield Update("conversations", key, {**running, **progress})
        case _ if isinstance(event, REPLY_ENDS):
            yield Update("conversations", key, progress, unset=(f"running.{event.response_id}",))
        case ConversationShared() | ConversationUnshared():
            shares = _shared_with(event.shares)
            yield Update("conversations", key, {"shared_with": shares, SHARE_TERMS: share_terms(shares), **progress})
        case ConversationEnded():
            yield Update("conversations", key, {"status": "ended", **progress})
        case ConversationReopened():
            yield Update("conversations", key, {"status": "active", **progress})
        case _:
            yield Update("conversations", key, progress)


def activity_key(updated_at: int, conversation_id: str = "") -> str:
    """A text that sorts by time, then by id. Without an id, it sorts before all ids of the same microsecond."""
    return f"{updated_at:016x}{uuid_of(conversation_id).hex if conversation_id else ''}"


def shared_with_subject(subject: str) -> list[str]:
    """The values in `shared_with` that include this subject."""
    return [WITH_TENANT, _with(subject)]


def _forked_from(fork: Fork) -> Document:
    return {"conversation": fork.conversation_id, "item": fork.item_id, "version": fork.version}


def _shared_with(shares: Iterable[Share]) -> list[str]:
    return [WITH_TENANT if share.subject is None else _with(share.subject) for share in shares]


def _with(subject: str) -> str:
    return f"subject:{subject}"
