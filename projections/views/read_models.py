"""The views in MongoDB: their documents, and what each event writes into them. Pure; queries read these shapes.

A document's `_id` is `tenant:id`. Times are integers, microseconds since 1970 (UTC). Bodies are JSON text as a client is
given them, so that a page of items is spliced together, not rebuilt. An item knows at which version it came and went:
any version of a conversation can be read as it stood.

    conversations  one document a conversation, removed when it is deleted
    items          one document an item, never an array that grows; removed with its conversation
    responses      one document a reply, running ones included; removed with its conversation
    usage          one document a tenant, day (UTC), model and bucket: what its replies came to; stays when they are deleted
    projections    one document a view, committed together with the view's writes: see `positions.py`
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct

from domain.events import (
    ContextCompacted,
    ConversationDeleted,
    ConversationDescribed,
    ConversationEnded,
    ConversationReopened,
    ConversationStarted,
    ItemAppended,
    ItemRetracted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    Usage,
)
from domain.items import as_output, from_stored, shaped, type_of
from infrastructure.event_log.recorded import Logged
from projections.views.partitions import partition_of
from replies.record import error_of, kept_output, status_of

Document = dict[str, Any]
View = Literal["conversations", "items", "responses", "usage"]

VIEWS: tuple[View, ...] = ("conversations", "items", "responses", "usage")
OF_CONVERSATIONS: tuple[View, ...] = ("conversations", "items", "responses")
"""The views whose documents go with their conversation."""

USAGE: View = "usage"
CONTEXT = "context"
"""The view in Redis: see `context_snapshots.py`."""

SPENDING = (ReplyCompleted, ContextCompacted)
"""The events of what a model was paid for."""

VERSIONS: dict[str, int] = {"conversations": 1, "items": 1, "responses": 2, "usage": 3}
"""Of each view: raised when what it holds is made differently from the same events."""

ALL_VIEWS: tuple[str, ...] = (*VIEWS, CONTEXT)
POSITIONS = "projections"

INDEXES: dict[str, tuple[tuple[tuple[str, int], ...], ...]] = {
    "conversations": (
        (("tenant", 1), ("listed", 1), ("id", -1)),
        (("tenant", 1), ("listed", 1), ("status", 1), ("id", -1)),
        (("tenant", 1), ("listed", 1), ("owner", 1), ("id", -1)),
        (("tenant", 1), ("listed", 1), ("metadata", 1), ("id", -1)),
    ),
    "items": ((("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)),),
    "responses": ((("tenant", 1), ("conversation_id", 1), ("id", 1)),),
    "usage": ((("tenant", 1), ("date", 1), ("model", 1)),),
}


class Insert(Struct, frozen=True):
    """A new document; nothing of that `_id` is there yet."""

    view: View
    key: str
    document: Document


class Update(Struct, frozen=True):
    """Fields of a document that is there: `set` to a value, `add` to a number."""

    view: View
    key: str
    set: Document
    add: dict[str, int] = {}


class Add(Struct, frozen=True):
    """Numbers that are added to a document, up to `position`; it begins as `document` where there is none."""

    view: View
    key: str
    document: Document
    add: dict[str, int]
    position: int


class Remove(Struct, frozen=True):
    """Every document of a conversation."""

    view: View
    tenant: str
    conversation_id: str


Write = Insert | Update | Add | Remove


def key(tenant: str, ident: str) -> str:
    """The `_id` of a conversation's, an item's or a response's document."""
    return f"{tenant}:{ident}"


def microseconds(moment: datetime) -> int:
    """A time as the views hold it."""
    return round(moment.timestamp() * 1_000_000)


def pairs(metadata: Mapping[str, str]) -> list[list[str]]:
    """Metadata as the views hold it: no key of people's is a name in a document, where `$ref`, `$id` or a dot mean something."""
    return [[name, value] for name, value in metadata.items()]


def deletes(logged: Logged) -> bool:
    """Whether it is a conversation's deletion: that says its topic, whether the rest can be read or not."""
    return logged.topic == ConversationDeleted.topic


def writes(logged: Logged) -> Iterator[Write]:
    """What one event writes into all views, in order. Raises UnreadableEvent."""
    if deletes(logged):
        for view in OF_CONVERSATIONS:
            yield Remove(view, logged.tenant, logged.conversation_id)
        return
    yield from _conversation(logged)
    yield from _items(logged)
    yield from _responses(logged)
    yield from _usage(logged)


def _conversation(recorded: Logged) -> Iterator[Write]:
    event = recorded.event
    at = microseconds(recorded.recorded_at)
    ident = key(recorded.tenant, recorded.conversation_id)
    seen: Document = {"version": recorded.version, "position": recorded.position, "updated_at": at}
    match event:
        case ConversationStarted():
            fork = event.forked_from
            yield Insert(
                "conversations",
                ident,
                {
                    "_id": ident,
                    "tenant": recorded.tenant,
                    "id": recorded.conversation_id,
                    "owner": event.owner,
                    "family": event.family,
                    "listed": event.listed,
                    "status": "active",
                    "title": event.title,
                    "instructions": event.instructions,
                    "metadata": pairs(event.metadata),
                    "context_policy": msgspec.to_builtins(event.context_policy),
                    "created_at": at,
                    "branch": 0,
                    "head": fork.item_id if fork else None,
                    "depth": fork.depth if fork else 0,
                    "items": 0,
                    **seen,
                },
            )
        case ConversationDescribed():
            names = ("title", "instructions", "context_policy")
            changes = {name: msgspec.to_builtins(v) for name in names if (v := getattr(event, name)) is not UNSET}
            if event.metadata is not UNSET:
                changes["metadata"] = pairs(event.metadata)
            yield Update("conversations", ident, {**changes, **seen})
        case ItemAppended():
            end = {"branch": event.branch, "head": event.item_id, "depth": event.depth}
            yield Update("conversations", ident, {**end, **seen}, {"items": 1})
        case ItemRetracted():
            yield Update("conversations", ident, seen, {"items": -1})
        case ConversationEnded():
            yield Update("conversations", ident, {"status": "ended", **seen})
        case ConversationReopened():
            yield Update("conversations", ident, {"status": "active", **seen})
        case _:
            yield Update("conversations", ident, seen)


def _items(recorded: Logged) -> Iterator[Write]:
    event = recorded.event
    match event:
        case ItemAppended():
            ident = key(recorded.tenant, event.item_id)
            item = from_stored(event.item)
            yield Insert(
                "items",
                ident,
                {
                    "_id": ident,
                    "tenant": recorded.tenant,
                    "conversation_id": recorded.conversation_id,
                    "id": event.item_id,
                    "branch": event.branch,
                    "depth": event.depth,
                    "version": recorded.version,
                    "retracted_version": None,
                    "type": type_of(item),
                    "item": msgspec.json.encode(shaped(event.item_id, item)).decode(),
                    "response_id": event.response_id,
                    "created_at": microseconds(recorded.recorded_at),
                },
            )
        case ItemRetracted():
            yield Update("items", key(recorded.tenant, event.item_id), {"retracted_version": recorded.version})
        case _:
            return


def _responses(recorded: Logged) -> Iterator[Write]:
    event = recorded.event
    match event:
        case ReplyRequested():
            ident = key(recorded.tenant, event.response_id)
            yield Insert(
                "responses",
                ident,
                {
                    "_id": ident,
                    "tenant": recorded.tenant,
                    "conversation_id": recorded.conversation_id,
                    "id": event.response_id,
                    "version": recorded.version,
                    "status": "in_progress",
                    "model": event.model,
                    "parameters": event.parameters.decode(),
                    "input": [as_output(given.item_id, given.item).decode() for given in event.input],
                    "output_ids": [],
                    "created_at": microseconds(recorded.recorded_at),
                    "completed_at": None,
                    "usage": None,
                    "cost": None,
                    "finish_reason": None,
                    "error": None,
                    "output": [],
                    "deleted": False,
                },
            )
        case ReplyCompleted():
            yield Update(
                "responses",
                key(recorded.tenant, event.response_id),
                {
                    "status": status_of(event),
                    "model": event.model,
                    "completed_at": microseconds(recorded.recorded_at),
                    "usage": msgspec.to_builtins(event.usage),
                    "cost": event.cost,
                    "finish_reason": event.finish_reason,
                    "output_ids": list(event.output_ids),
                },
            )
        case ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            yield Update(
                "responses",
                key(recorded.tenant, event.response_id),
                {
                    "status": status_of(event),
                    "completed_at": microseconds(recorded.recorded_at),
                    "error": error_of(event),
                    "output": [as_output(kept.item_id, kept.item).decode() for kept in kept_output(event)],
                },
            )
        case ReplyDeleted():
            nothing: Document = {"deleted": True, "parameters": "{}", "input": [], "output": [], "output_ids": []}
            yield Update("responses", key(recorded.tenant, event.response_id), nothing)
        case _:
            return


def _usage(recorded: Logged) -> Iterator[Write]:
    event = recorded.event
    if not isinstance(event, SPENDING) or event.usage is None:
        return
    date, partition = recorded.recorded_at.astimezone(UTC).date().isoformat(), partition_of(recorded.conversation_id)
    ident = key(recorded.tenant, f"{date}:{partition}:{event.model}")
    which = {"_id": ident, "tenant": recorded.tenant, "date": date, "model": event.model, "bucket": partition}
    replied = isinstance(event, ReplyCompleted)
    amounts = {"replies": int(replied), "summaries": int(not replied)}
    amounts |= {name: getattr(event.usage, name) for name in Usage.__struct_fields__}
    amounts["cost"] = event.cost or 0
    yield Add("usage", ident, which, amounts, recorded.position)
