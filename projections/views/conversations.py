"""The view `conversations`: one document per conversation, with its settings, its shares, its head and its item count.

`path` is the active path, and `moved_at` the version at which the head was last moved. Both are absent while there is one branch.

`shared_with` has one text for each share: `tenant`, or `subject:` followed by the subject. No two shares have the same text.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from domain.events import (
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
    Share,
)
from infrastructure.event_log.recorded import Logged
from projections.views.writes import Document, Insert, Update, Write, document_key, metadata_pairs, microseconds

WITH_TENANT: Final = "tenant"
"""In `shared_with`: the share with everyone of the tenant."""


def conversation_writes(logged: Logged) -> Iterator[Write]:
    """The writes of one event. Every event updates the conversation's `version`, `position` and `updated_at`."""
    event = logged.event
    recorded_at = microseconds(logged.recorded_at)
    key = document_key(logged.tenant, logged.conversation_id)
    progress: Document = {"version": logged.version, "position": logged.position, "updated_at": recorded_at}
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
                    "instructions": event.instructions,
                    "metadata": metadata_pairs(event.metadata),
                    "context_policy": msgspec.to_builtins(event.context_policy),
                    "created_at": recorded_at,
                    "branch": 0,
                    "shared_with": [],
                    "head": fork.item_id if fork else None,
                    "depth": fork.depth if fork else 0,
                    "items": 0,
                    "forked_from": _forked_from(fork) if fork else None,
                    **progress,
                },
            )
        case ConversationDescribed():
            names = ("title", "instructions", "context_policy", "listed", "archived")
            changes = {
                name: msgspec.to_builtins(value) for name in names if (value := getattr(event, name)) is not UNSET
            }
            if event.metadata is not UNSET:
                changes["metadata"] = metadata_pairs(event.metadata)
            yield Update("conversations", key, {**changes, **progress})
        case ItemAppended():
            head = {} if event.aside else {"branch": event.branch, "head": event.item_id, "depth": event.depth}
            yield Update("conversations", key, {**head, **progress}, {"items": 1})
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
        case ConversationShared() | ConversationUnshared():
            yield Update("conversations", key, {"shared_with": _shared_with(event.shares), **progress})
        case ConversationEnded():
            yield Update("conversations", key, {"status": "ended", **progress})
        case ConversationReopened():
            yield Update("conversations", key, {"status": "active", **progress})
        case _:
            yield Update("conversations", key, progress)


def shared_with_subject(subject: str) -> list[str]:
    """If a conversation is shared with this subject, its `shared_with` has at least one of these texts."""
    return [WITH_TENANT, _with(subject)]


def _forked_from(fork: Fork) -> Document:
    return {"conversation": fork.conversation_id, "item": fork.item_id, "version": fork.version}


def _shared_with(shares: Iterable[Share]) -> list[str]:
    return [WITH_TENANT if share.subject is None else _with(share.subject) for share in shares]


def _with(subject: str) -> str:
    return f"subject:{subject}"
