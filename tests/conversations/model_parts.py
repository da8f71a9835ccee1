"""The parts of a conversation in the model: items, summaries, replies, feedback."""

from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

if TYPE_CHECKING:
    from tests.conversations.conversation_model import ModelConversation

Role = Literal["reader", "writer"]


class ModelItem(Struct, eq=False, kw_only=True):
    """The item was appended after `parent`. `response`: the completed response that has the item in its output.

    `retracted`: whether the item is deleted in `conversation`.
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
        items, item = [self], self.parent
        while item is not None:
            items.append(item)
            item = item.parent
        return items[::-1]


def path_to(leaf: ModelItem | None) -> list[ModelItem]:
    return [] if leaf is None else leaf.path


class ModelFeedback(Struct, frozen=True):
    rating: int
    labels: tuple[str, ...]
    comment: str | None


class ModelSummary(Struct, eq=False, kw_only=True):
    """`last`: the last covered item. `replaces`: the earlier summary that this summary includes.

    `changed_in`: conversations in which a covered item was deleted or restored later.
    """

    conversation: "ModelConversation"
    version: int
    id: str
    last: ModelItem
    replaces: "ModelSummary | None" = None
    changed_in: "list[ModelConversation]" = field(default_factory=list)

    def is_withdrawn_in(self, conversation: "ModelConversation") -> bool:
        return any(each in self.changed_in for each in conversation.lineage)

    def covers(self, item: ModelItem, conversation: "ModelConversation") -> bool:
        """Whether the summary is withdrawn if the item is deleted or restored in this conversation.

        In the conversation of the summary, only the depth of the item counts.
        """
        is_deep = len(item.path) > len(self.last.path)
        if conversation is self.conversation:
            return not is_deep
        if conversation in self.conversation.lineage:
            return item in self.last.path
        is_inherited = item.conversation is not conversation
        return self.conversation in conversation.lineage and is_inherited and not is_deep


class RunningReply(Struct, eq=False):
    """A reply that runs. Without `at_head`, its items open a branch after `leaf`.

    `head`: the head when the reply was requested.
    """

    at_head: bool
    leaf: ModelItem | None
    names_leaf: bool
    head: ModelItem | None


class ModelResponse(Struct, eq=False, kw_only=True):
    """A reply that ended at `version`. `had_turn` is False if the reply ended while it waited.

    `questions`, `answers`: the items that joined the conversation. `input_texts`: the texts of the input.
    `names_leaf`, `leaf`: as in RunningReply. `last`: the last item that joined, otherwise the head or the leaf.
    """

    id: str
    status: str
    version: int
    author: str
    is_chat: bool
    had_turn: bool
    questions: list[ModelItem]
    answers: list[ModelItem]
    input_texts: list[str]
    names_leaf: bool
    leaf: ModelItem | None
    last: ModelItem | None
    metadata: dict[str, str] = field(default_factory=dict)
    deleted: bool = False
    is_retried: bool = False

    @property
    def shown_answers(self) -> list[ModelItem]:
        """The answers that are not retracted, if the reply completed."""
        return [item for item in self.answers if self.status == "completed" and not item.retracted]

    @property
    def items(self) -> list[ModelItem]:
        return [*self.questions, *self.answers]

    @property
    def has_joined(self) -> bool:
        return bool(self.items)


class ModelState(Struct, frozen=True, kw_only=True):
    """A conversation at one version. `shown`: the items that its active path showed."""

    head: ModelItem | None
    pinned: list[ModelItem]
    shown: list[ModelItem]
    summaries: list[ModelSummary]
    instructions: str | None
    keeps_stopped: bool
