"""A model in memory of conversations with branches and forks."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

Role = Literal["reader", "writer"]


class ModelItem(Struct, eq=False, kw_only=True):
    """`parent`: the item before this one. `response`: the completed response that has this item in its output.

    `retracted`: whether this item was retracted in its own conversation.
    """

    id: str
    text: str
    role: str
    author: str
    response: str | None = None
    parent: "ModelItem | None" = None
    conversation: "ModelConversation | None" = None
    retracted: bool = False

    @property
    def path(self) -> "list[ModelItem]":
        return [self] if self.parent is None else [*self.parent.path, self]


class ModelFeedback(Struct, frozen=True):
    rating: int
    labels: tuple[str, ...]
    comment: str | None


class ModelState(Struct, frozen=True):
    """`shown`: the items that the active path showed at this version."""

    head: ModelItem | None
    pinned: list[ModelItem]
    shown: list[ModelItem]


class ModelReply(Struct, eq=False):
    """A reply that runs. Without `at_head`, its items open a branch after `leaf`. `head`: the head when the reply was requested."""

    at_head: bool
    leaf: ModelItem | None
    names_leaf: bool
    head: ModelItem | None


class ModelConversation(Struct, eq=False, kw_only=True):
    """`base`: the last item that a fork inherits. `head`: the last item of the active path.

    `hidden`: inherited items that were retracted here. `feedback`: by (item or response id, subject).
    `replies`: the number of completed replies, by subject. `states`: by version.
    """

    id: str
    owner: str
    title: str | None
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
    running: dict[str, ModelReply] = field(default_factory=dict)
    replies: dict[str, int] = field(default_factory=dict)
    position: int = 0
    states: dict[int, ModelState] = field(default_factory=dict)

    def is_readable_by(self, subject: str) -> bool:
        return not self.deleted and (subject == self.owner or subject in self.shares)

    @property
    def inherited(self) -> list[ModelItem]:
        return [] if self.base is None else self.base.path

    @property
    def nodes(self) -> list[ModelItem]:
        """Inherited items without the items of deleted conversations, then own items."""
        return [
            *(item for item in self.inherited if not (item.conversation and item.conversation.deleted)),
            *self.items,
        ]

    def shows(self, item: ModelItem) -> bool:
        """False for items of deleted conversations, and for items retracted in their own conversation, here, or between."""
        if item.conversation is self:
            return not item.retracted and not self.deleted
        return item not in self.hidden and self.origin is not None and self.origin.shows(item)

    def shown(self, leaf: ModelItem | None) -> list[ModelItem]:
        return [] if leaf is None else [item for item in leaf.path if self.shows(item)]

    def siblings(self, item: ModelItem) -> list[ModelItem]:
        """The shown items with the same parent, this one included, oldest first."""
        return [node for node in self.nodes if node.parent is item.parent and self.shows(node)]

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
        """Running replies still join after the old head, unless the head moves back first."""
        if item is self.head:
            return
        for reply in self.running.values():
            if reply.at_head:
                reply.at_head, reply.leaf = False, self.head
            elif reply.leaf is item and not reply.names_leaf:
                reply.at_head = True
        self.head = item

    def request_reply(self, response_id: str, *named: ModelItem | None) -> None:
        leaf = named[0] if named else None
        self.running[response_id] = ModelReply(not named, leaf, bool(named), self.head)

    def complete_reply(self, response_id: str, subject: str, *items: ModelItem) -> None:
        self.replies[subject] = self.replies.get(subject, 0) + 1
        self._join(response_id, *items)

    def stop_reply(self, response_id: str, *items: ModelItem) -> None:
        self._join(response_id, *(items if self.keeps_stopped else ()))

    def _join(self, response_id: str, *items: ModelItem) -> None:
        """If the request named a leaf, the head moves to the last item, unless another command moved the head."""
        reply = self.running.pop(response_id)
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

    def note_state(self, version: int) -> None:
        self.states[version] = ModelState(self.head, [*self.pinned], self.shown(self.head))


class ConversationModel(Struct):
    conversations: list[ModelConversation] = field(default_factory=list)

    @property
    def existing(self) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if not conversation.deleted]

    def readable_by(self, subject: str) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if conversation.is_readable_by(subject)]

    def found_by(self, subject: str, word: str) -> set[str]:
        return {
            item.id
            for conversation in self.readable_by(subject)
            for item in conversation.nodes
            if conversation.shows(item) and word in item.text.split()
        }
