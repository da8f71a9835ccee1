"""A model in memory of conversations with branches and forks."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct, field

from tests.conversations.model_parts import (
    ModelFeedback,
    ModelItem,
    ModelResponse,
    ModelState,
    ModelSummary,
    Role,
    RunningReply,
    path_to,
)

EVERYONE: Final = "*"
"""Stands for everyone of the tenant in `shares`."""


class ModelConversation(Struct, eq=False, kw_only=True):
    """`base`: the last item that a fork inherits. `head`: the last item of the active path.

    `hidden`: inherited items that were retracted here. `feedback`: by item or response id, and subject. `replies`,
    `compactions`: how many were completed, by subject. `summaries` can be undone. `undone` can be redone,
    the next one first. `states`: by version.
    """

    id: str
    owner: str
    title: str | None
    instructions: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    listed: bool = True
    archived: bool = False
    ended: bool = False
    keeps_stopped: bool = False
    deleted: bool = False
    origin: "ModelConversation | None" = None
    base: ModelItem | None = None
    head: ModelItem | None = None
    items: list[ModelItem] = field(default_factory=list)
    hidden: list[ModelItem] = field(default_factory=list)
    pinned: list[ModelItem] = field(default_factory=list)
    shares: dict[str, Role] = field(default_factory=dict)
    feedback: dict[tuple[ModelItem | str, str], ModelFeedback] = field(default_factory=dict)
    running: dict[str, RunningReply] = field(default_factory=dict)
    responses: dict[str, ModelResponse] = field(default_factory=dict)
    replies: dict[str, int] = field(default_factory=dict)
    compactions: dict[str, int] = field(default_factory=dict)
    summaries: list[ModelSummary] = field(default_factory=list)
    undone: list[ModelSummary] = field(default_factory=list)
    inherited_summary: ModelSummary | None = None
    position: int = 0
    version: int = 0
    states: dict[int, ModelState] = field(default_factory=dict)

    def is_readable_by(self, subject: str) -> bool:
        return not self.deleted and (subject == self.owner or not self.shares.keys().isdisjoint((subject, EVERYONE)))

    def is_writable_by(self, subject: str) -> bool:
        roles = (self.shares.get(subject), self.shares.get(EVERYONE))
        return not self.deleted and (subject == self.owner or "writer" in roles)

    @property
    def lineage(self) -> "list[ModelConversation]":
        """This conversation, its origin, and so on."""
        return [self, *(self.origin.lineage if self.origin else ())]

    @property
    def inherited(self) -> list[ModelItem]:
        return path_to(self.base)

    @property
    def nodes(self) -> list[ModelItem]:
        """Inherited items without the items of deleted conversations, then own items."""
        return [
            *(item for item in self.inherited if not (item.conversation and item.conversation.deleted)),
            *self.items,
        ]

    @property
    def leaves(self) -> list[ModelItem]:
        """The items that no other item comes after."""
        parents = [node.parent for node in self.nodes]
        return [node for node in self.nodes if node not in parents]

    def item(self, item_id: str | None) -> ModelItem | None:
        """The item with this id; None for None."""
        return next(item for item in (*self.inherited, *self.items) if item.id == item_id) if item_id else None

    def shows(self, item: ModelItem) -> bool:
        """An item is not shown if its conversation is deleted, or if it was retracted in its conversation, in this one, or in a fork between the two."""
        if item.conversation is self:
            return not item.retracted and not self.deleted
        return item not in self.hidden and self.origin is not None and self.origin.shows(item)

    def shown(self, leaf: ModelItem | None) -> list[ModelItem]:
        return [item for item in path_to(leaf) if self.shows(item)]

    def siblings(self, item: ModelItem) -> list[ModelItem]:
        """The shown items with the same parent, this one included, oldest first."""
        return [node for node in self.nodes if node.parent is item.parent and self.shows(node)]

    def is_deleted_with_response(self, item: ModelItem) -> bool:
        """Such an item cannot be restored in an unlisted conversation."""
        return not self.listed and any(each.deleted and item in each.items for each in self.responses.values())

    def append(self, *items: ModelItem) -> None:
        self._add(items, self.head)
        self.head = items[-1]

    def branch(self, item: ModelItem, after: ModelItem | None) -> None:
        """The item becomes the head. The item opens a branch, unless `after` is the head."""
        if after is self.head:
            return self.append(item)
        self._add([item], after)
        return self.move_head(item)

    def move_head(self, item: ModelItem) -> None:
        """Replies that run at the old head will join after it. If the head moves back before such a reply ends, the reply is at the head again."""
        if item is self.head:
            return
        for reply in self.running.values():
            if reply.at_head:
                reply.at_head, reply.leaf = False, self.head
            elif reply.leaf is item and not reply.names_leaf:
                reply.at_head = True
        self.head = item

    def join(self, reply: RunningReply, items: Sequence[ModelItem]) -> None:
        """The items of a reply join after the head, or after `reply.leaf`."""
        if not items:
            return None
        if reply.at_head:
            return self.append(*items)
        self._add(items, reply.leaf)
        if reply.names_leaf and self.head in (reply.head, reply.leaf):
            self.move_head(items[-1])
        return None

    def _add(self, items: Iterable[ModelItem], after: ModelItem | None) -> None:
        for item in items:
            item.conversation, item.parent = self, after
            self.items.append(item)
            after = item

    def active_summary(
        self, leaf: ModelItem | None, summaries: Sequence[ModelSummary] | None = None
    ) -> ModelSummary | None:
        """The summary that counts on the path to `leaf`. `summaries`: those of an earlier version."""
        path = path_to(leaf)
        usable = self.summaries if summaries is None else summaries
        summary = next((each for each in reversed(usable) if each.last in path), None)
        while summary is not None and summary.is_withdrawn_in(self):
            summary = summary.replaces
        if summary is not None:
            return summary
        summary = self.inherited_summary
        while summary is not None and (summary.last not in path or summary.is_withdrawn_in(self)):
            summary = summary.replaces
        return summary

    def state_at(self, version: int) -> ModelState:
        return self.states[max(earlier for earlier in self.states if earlier <= version)]

    def note_state(self, version: int) -> None:
        self.version = max(self.version, version)
        self.states[version] = ModelState(
            head=self.head,
            pinned=[*self.pinned],
            shown=self.shown(self.head),
            summaries=[*self.summaries],
            instructions=self.instructions,
            keeps_stopped=self.keeps_stopped,
        )


class ConversationModel(Struct):
    conversations: list[ModelConversation] = field(default_factory=list)
    summaries: list[ModelSummary] = field(default_factory=list)

    @property
    def existing(self) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if not conversation.deleted]

    def conversation(self, conversation_id: str) -> ModelConversation | None:
        return next((each for each in self.conversations if each.id == conversation_id), None)

    def readable_by(self, subject: str) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if conversation.is_readable_by(subject)]

    def found_by(self, subject: str, word: str) -> set[str]:
        return {
            item.id
            for conversation in self.readable_by(subject)
            for item in conversation.nodes
            if conversation.shows(item) and word in item.text.split()
        }

    def retract(self, conversation: ModelConversation, item: ModelItem) -> None:
        if item in conversation.pinned:
            conversation.pinned.remove(item)
        if item.conversation is conversation:
            item.retracted = True
        else:
            conversation.hidden.append(item)
        self._withdraw_summaries(conversation, item)

    def restore(self, conversation: ModelConversation, item: ModelItem) -> None:
        if conversation.shows(item):
            return  # another command restored it first
        if item.conversation is conversation:
            item.retracted = False
        else:
            conversation.hidden.remove(item)
        self._withdraw_summaries(conversation, item)

    def delete(self, conversation: ModelConversation) -> None:
        conversation.deleted = True
        for summary in self.summaries:
            if conversation in summary.conversation.lineage:
                summary.changed_in.append(conversation)

    def _withdraw_summaries(self, conversation: ModelConversation, item: ModelItem) -> None:
        for summary in self.summaries:
            if summary.covers(item, conversation):
                summary.changed_in.append(conversation)
        depth = len(item.path)
        conversation.summaries = [each for each in conversation.summaries if len(each.last.path) < depth]
        conversation.undone = [each for each in conversation.undone if len(each.last.path) < depth]
