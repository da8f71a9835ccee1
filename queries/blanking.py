"""Blanks deleted content in the audit trail, except for callers with the scope `audit`.

A blanked field is null, and the list `blanked` names it. Versions, types, ids and hashes stay.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from context.deleted_content import deleted_items
from context.forks import appended_items, fork_of, lineage
from context.withdrawn_summaries import is_withdrawn
from domain.content import CONTENT, Part
from domain.errors import ConversationNotFound
from domain.items import Item, without_content
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from queries.principal_log import PrincipalLog


class Deleted(Struct, frozen=True):
    """What is deleted of the content of some events.

    `summaries`: the versions of ContextCompacted events whose summary was withdrawn.
    """

    conversation: bool = False
    ids: frozenset[str] = frozenset()
    summaries: frozenset[int] = frozenset()

    def has(self, part: Part, recorded: Recorded) -> bool:
        """Whether this part is deleted. For `items` and `transcript`: whether the whole part is deleted."""
        if self.conversation:
            return True
        event: Any = recorded.event
        match part:
            case "item":
                return event.item_id in self.ids
            case "response" | "items" | "transcript":
                return event.response_id in self.ids
            case "target":
                return event.target in self.ids
            case "summary":
                return recorded.version in self.summaries
            case "title":
                return not self.ids.isdisjoint(event.title_items)
            case "conversation":
                return False


NOTHING = Deleted()


async def audit_trail_head(log: PrincipalLog, conversation_id: str) -> Head:
    """The head of a conversation whose events the caller may read. Raises ConversationNotFound.

    The events of a deleted conversation are only for its owner and an admin, with a login and the scope `audit`.
    """
    head = await log.head(conversation_id)
    role = None if head is None else head.role(log.principal)
    if head is None or role is None or (head.deleted and not (role == "owner" and log.principal.finds_deleted)):
        raise ConversationNotFound(conversation_id)
    return head


async def requested_even_if_deleted(log: PrincipalLog, response_id: str) -> Recorded | None:
    """As `PrincipalLog.requested_even_if_deleted`.

    None also if the caller may not read the events of the response's conversation.
    """
    requested = await log.requested_even_if_deleted(response_id)
    if requested is None:
        return None
    try:
        await audit_trail_head(log, requested.conversation_id)
    except ConversationNotFound:
        return None
    return requested


async def deleted_in(log: PrincipalLog, events: Sequence[Recorded]) -> Deleted:
    """What is deleted of these events. `events`: at least one, all of one conversation."""
    conversation_id = events[0].conversation_id
    head = await log.head(conversation_id)
    if head is None or head.deleted:
        return Deleted(conversation=True)
    content = _EventContent()
    for recorded in events:
        content.add(recorded)
    conversations = [conversation_id]
    if content.on_path:
        conversations = await lineage(log, conversation_id)
        unknown = content.on_path - content.items.keys()
        appended = await appended_items(log, conversation_id, unknown)
        content.items |= {item_id: event.copy_of for item_id, event in appended.items()}
    items = await deleted_items(log, content.items, conversations)
    responses = await log.deleted_responses(conversation_id, sorted(content.responses)) if content.responses else ()
    fork = await fork_of(log, conversation_id) if content.summaries else None
    summaries = {recorded.version for recorded in content.summaries if await is_withdrawn(log, recorded, fork)}
    return Deleted(ids=items.union(responses), summaries=frozenset(summaries))


def blanked_item_json(item: Item) -> bytes:
    return msgspec.json.encode({**without_content(item), "blanked": True})


def blank(data: dict[str, Any], recorded: Recorded, deleted: Deleted) -> list[str]:
    """Blanks deleted fields of an event in `data`. Returns their names."""
    blanked: list[str] = []
    for name, part in CONTENT.get(type(recorded.event), {}).items():
        if data.get(name) in (None, "", [], {}):
            continue
        is_whole_field = deleted.has(part, recorded)
        if part == "items":
            for index, new in enumerate(data[name]):
                if is_whole_field or new["item_id"] in deleted.ids:
                    new["item"] = None
                    blanked.append(f"{name}[{index}].item")
        elif is_whole_field:
            data[name] = None
            blanked.append(name)
        elif part == "transcript":
            for index, each in enumerate(data[name]["parts"]):
                if each["changes"] is not None and not deleted.ids.isdisjoint(each["items"]):
                    each["changes"] = None
                    blanked.append(f"{name}.parts[{index}].changes")
    return blanked


class _EventContent(Struct):
    """The content of some events that may be deleted.

    `items`: the items' ids, each with the id of its original, or None if the item is no copy
    `on_path`: items that may be copies or inherited
    """

    items: dict[str, str | None] = field(default_factory=dict)
    on_path: set[str] = field(default_factory=set)
    responses: set[str] = field(default_factory=set)
    summaries: list[Recorded] = field(default_factory=list)

    def add(self, recorded: Recorded) -> None:
        event: Any = recorded.event
        for name, part in CONTENT.get(type(event), {}).items():
            match part:
                case "item":
                    self.items[event.item_id] = event.copy_of
                case "title":
                    self.items = dict.fromkeys(event.title_items) | self.items
                case "response":
                    self.responses.add(event.response_id)
                case "transcript" if event.transcript is not None:
                    self.responses.add(event.response_id)
                    for each in event.transcript.parts:
                        if each.changes is not None:
                            self.on_path.update(each.items)
                case "items":
                    self.responses.add(event.response_id)
                    self.items |= {new.item_id: new.copy_of for new in getattr(event, name)}
                case "target" if event.inherited:
                    self.on_path.add(event.item_id)
                case "target" if event.item_id is not None:
                    self.items[event.item_id] = event.copy_of
                case "target":
                    self.responses.add(event.response_id)
                case "summary":
                    self.summaries.append(recorded)
                case "transcript" | "conversation":
                    pass
