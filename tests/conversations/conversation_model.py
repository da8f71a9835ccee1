"""A model in memory of conversations with branches and forks: which items a conversation shows, and in which order."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

Role = Literal["reader", "writer"]


class ModelItem(Struct, eq=False, kw_only=True):
    """An item of the model.

    response      the completed response that has this item in its output; None for other items
    parent        the item that it was appended after
    conversation  the conversation that it was appended to
    retracted     whether it is deleted in that conversation
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
        """The items from the first one to this one."""
        return [self] if self.parent is None else [*self.parent.path, self]


class ModelFeedback(Struct, frozen=True):
    rating: int
    labels: tuple[str, ...]
    comment: str | None


class ModelState(Struct, frozen=True):
    """A conversation at a version. `shown`: the items that its active path showed at that version."""

    head: ModelItem | None
    pinned: list[ModelItem]
    shown: list[ModelItem]


class ModelReply(Struct, eq=False):
    """A reply that runs.

    at_head     whether its items will be appended at the head. If not, they open a branch after `leaf`
    names_leaf  whether the request named `leaf`. If not, `leaf` is None while `at_head`, and later the item from which the
                head was moved away
    head        the head when the reply was requested
    """

    at_head: bool
    leaf: ModelItem | None
    names_leaf: bool
    head: ModelItem | None


class ModelConversation(Struct, eq=False, kw_only=True):
    """A conversation of the model.

    origin    the conversation that it was forked from; None if it is no fork
    base      the last item that it inherits
    head      the last item of its active path
    items     its own items, in the order in which they were appended
    hidden    the inherited items that were retracted in this fork
    shares    the role of each other subject that may read it
    feedback  by what it is about (an item, or the id of a response) and subject
    running   the replies that run, by response id
    replies   how many completed replies each subject got
    position  the log's position after the last command
    states    what the conversation was like, by version

    keeps_stopped  whether the items of a stopped reply join it
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
        """All items of the conversation's tree: the inherited ones, without those of deleted conversations, then its own."""
        return [
            *(item for item in self.inherited if not (item.conversation and item.conversation.deleted)),
            *self.items,
        ]

    def shows(self, item: ModelItem) -> bool:
        """Whether the item is shown here.

        Not shown: an item that was retracted in its own conversation, in this fork or in a fork between these two
        conversations, and an item whose own conversation is deleted.
        """
        if item.conversation is self:
            return not item.retracted and not self.deleted
        return item not in self.hidden and self.origin is not None and self.origin.shows(item)

    def shown(self, leaf: ModelItem | None) -> list[ModelItem]:
        """The items that are shown on the path to `leaf`, oldest first."""
        return [] if leaf is None else [item for item in leaf.path if self.shows(item)]

    def siblings(self, item: ModelItem) -> list[ModelItem]:
        """The items with the same parent that are shown, this one included, in the order in which they were appended."""
        return [node for node in self.nodes if node.parent is item.parent and self.shows(node)]

    def append(self, *items: ModelItem) -> None:
        """Appends items at the head. The last of them is the new head."""
        self._add(items, self.head)
        self.head = items[-1]

    def branch(self, item: ModelItem, after: ModelItem | None) -> None:
        """Appends the item after `after`: on a new branch, unless `after` is the head. The item becomes the head."""
        if after is self.head:
            return self.append(item)
        self._add([item], after)
        return self.move_head(item)

    def move_head(self, item: ModelItem) -> None:
        """Replies that run for the old head will still be appended there, on a branch, unless the head moves back first."""
        if item is self.head:
            return
        for reply in self.running.values():
            if reply.at_head:
                reply.at_head, reply.leaf = False, self.head
            elif reply.leaf is item and not reply.names_leaf:
                reply.at_head = True
        self.head = item

    def request_reply(self, response_id: str, *named: ModelItem | None) -> None:
        """`named`: the leaf that the request names, if any."""
        leaf = named[0] if named else None
        self.running[response_id] = ModelReply(not named, leaf, bool(named), self.head)

    def complete_reply(self, response_id: str, subject: str, *items: ModelItem) -> None:
        self.replies[subject] = self.replies.get(subject, 0) + 1
        self._join(response_id, *items)

    def stop_reply(self, response_id: str, *items: ModelItem) -> None:
        self._join(response_id, *(items if self.keeps_stopped else ()))

    def _join(self, response_id: str, *items: ModelItem) -> None:
        """Appends the items of the reply. If its request named a leaf, the head moves to the last of them, unless another command has moved the head."""
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
        """Keeps what the conversation is like now, as its state at this version."""
        self.states[version] = ModelState(self.head, [*self.pinned], self.shown(self.head))


class ConversationModel(Struct):
    conversations: list[ModelConversation] = field(default_factory=list)

    @property
    def existing(self) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if not conversation.deleted]

    def readable_by(self, subject: str) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if conversation.is_readable_by(subject)]

    def found_by(self, subject: str, word: str) -> set[str]:
        """The ids of the items with this word that are shown in a conversation that the subject may read."""
        return {
            item.id
            for conversation in self.readable_by(subject)
            for item in conversation.nodes
            if conversation.shows(item) and word in item.text.split()
        }
