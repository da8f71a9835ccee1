"""A model in memory of conversations with branches and forks: which items a conversation shows, and in which order."""

from typing import Literal

from msgspec import Struct, field

Role = Literal["reader", "writer"]


class ModelItem(Struct, eq=False, kw_only=True):
    """An item of the model.

    parent     the item that it was appended after
    response   the id of the response that it is the answer of; None for other items
    retracted  whether it is deleted in its own conversation
    """

    id: str
    text: str
    role: str
    author: str
    parent: "ModelItem | None"
    conversation: "ModelConversation"
    response: str | None = None
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
    """What a conversation was like at a version. `shown`: the items that its active path showed then."""

    head: ModelItem | None
    pinned: list[ModelItem]
    shown: list[ModelItem]


class ModelConversation(Struct, eq=False, kw_only=True):
    """A conversation of the model.

    origin    the conversation that it was forked from; None if it is no fork
    base      the last item that it inherits
    head      the last item of its active path
    items     its own items, in the order in which they were appended
    hidden    the inherited items that were retracted in this fork
    shares    the role of each other subject that may read it
    feedback  by item and subject
    replies   how many replies each subject got
    states    by version
    """

    id: str
    owner: str
    title: str | None
    archived: bool = False
    deleted: bool = False
    origin: "ModelConversation | None" = None
    base: ModelItem | None = None
    head: ModelItem | None = None
    items: list[ModelItem] = field(default_factory=list)
    hidden: list[ModelItem] = field(default_factory=list)
    pinned: list[ModelItem] = field(default_factory=list)
    shares: dict[str, Role] = field(default_factory=dict)
    feedback: dict[tuple[ModelItem, str], ModelFeedback] = field(default_factory=dict)
    replies: dict[str, int] = field(default_factory=dict)
    states: dict[int, ModelState] = field(default_factory=dict)

    def is_readable_by(self, subject: str) -> bool:
        return not self.deleted and (subject == self.owner or subject in self.shares)

    @property
    def inherited(self) -> list[ModelItem]:
        return [] if self.base is None else self.base.path

    @property
    def nodes(self) -> list[ModelItem]:
        """All items of the conversation's tree: the inherited ones, without those of deleted conversations, then its own."""
        return [*(item for item in self.inherited if not item.conversation.deleted), *self.items]

    def shows(self, item: ModelItem) -> bool:
        """Whether the item is not retracted: not here, not in its own conversation, and not in a fork between the two."""
        if item.conversation is self:
            return not item.retracted and not self.deleted
        return item not in self.hidden and self.origin is not None and self.origin.shows(item)

    def shown(self, leaf: ModelItem | None) -> list[ModelItem]:
        """The items that are shown on the path to `leaf`, oldest first."""
        return [] if leaf is None else [item for item in leaf.path if self.shows(item)]

    def siblings(self, item: ModelItem) -> list[ModelItem]:
        """The items with the same parent that are shown, this one included, in the order in which they were appended."""
        return [node for node in self.nodes if node.parent is item.parent and self.shows(node)]

    def append(self, item_id: str, text: str, role: str, author: str, response: str | None = None) -> None:
        """Adds an item after the head. It becomes the head."""
        self.head = ModelItem(
            id=item_id, text=text, role=role, author=author, parent=self.head, conversation=self, response=response
        )
        self.items.append(self.head)

    def count_reply(self, subject: str) -> None:
        self.replies[subject] = self.replies.get(subject, 0) + 1

    def note_state(self, version: int) -> None:
        """Notes what the conversation is like at this version."""
        self.states[version] = ModelState(self.head, [*self.pinned], self.shown(self.head))


class ConversationModel(Struct):
    conversations: list[ModelConversation] = field(default_factory=list)

    @property
    def existing(self) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if not conversation.deleted]

    def readable_by(self, subject: str) -> list[ModelConversation]:
        return [conversation for conversation in self.conversations if conversation.is_readable_by(subject)]

    def found_by(self, subject: str, word: str) -> set[str]:
        """The ids of the items with this word in conversations that the subject may read."""
        return {
            item.id
            for conversation in self.readable_by(subject)
            for item in conversation.items
            if conversation.shows(item) and word in item.text.split()
        }
