"""What can be asked of a conversation. Ids, times and item bodies come from outside, already well-formed.

Handlers in `commands/` make these; `decide` answers them with events or refuses.
"""

from msgspec import UNSET, Struct, UnsetType

from domain.events import ContextPolicy, Fork, InputItem, Shown, Timing, Usage


class NewItem(Struct, frozen=True, kw_only=True):
    """An item to append: its minted id and its body as sent, JSON text in UTF-8."""

    item_id: str
    item: bytes


class Command(Struct, frozen=True, kw_only=True):
    """`touches`: ids of the items or responses whose rows `decide` must be shown."""

    @property
    def touches(self) -> tuple[str, ...]:
        return ()


class StartConversation(Command, frozen=True, kw_only=True):
    conversation_id: str
    tenant: str
    owner: str
    title: str | None = None
    instructions: str | None = None
    metadata: dict[str, str] = {}
    context_policy: ContextPolicy = ContextPolicy()
    listed: bool = True
    items: tuple[NewItem, ...] = ()
    forked_from: Fork | None = None
    family: str | None = None


class DescribeConversation(Command, frozen=True, kw_only=True):
    title: str | None | UnsetType = UNSET
    instructions: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    context_policy: ContextPolicy | UnsetType = UNSET


class AppendItems(Command, frozen=True, kw_only=True):
    items: tuple[NewItem, ...]
    author: str


class RetractItem(Command, frozen=True, kw_only=True):
    item_id: str

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.item_id,)


class PinItem(Command, frozen=True, kw_only=True):
    item_id: str

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.item_id,)


class UnpinItem(Command, frozen=True, kw_only=True):
    item_id: str

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.item_id,)


class RequestReply(Command, frozen=True, kw_only=True):
    """`start` begins a conversation of the reply's own, in the same breath; `below`: the head it must still have."""

    response_id: str
    model: str
    parameters: bytes
    input: tuple[InputItem, ...]
    shown: Shown
    start: StartConversation | None = None
    expected_head: str | None | UnsetType = UNSET


class CompleteReply(Command, frozen=True, kw_only=True):
    """`input` and `output` join the conversation at its head as it is when the command is decided."""

    response_id: str
    model: str
    author: str
    input: tuple[InputItem, ...]
    output: tuple[NewItem, ...]
    usage: Usage
    finish_reason: str
    timing: Timing
    delta_lengths: tuple[int, ...] = ()
    cost: int | None = None


class FailReply(Command, frozen=True, kw_only=True):
    response_id: str
    code: str
    message: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()


class CancelReply(Command, frozen=True, kw_only=True):
    response_id: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()


class InterruptReply(Command, frozen=True, kw_only=True):
    response_id: str
    code: str
    output: tuple[InputItem, ...] = ()
    delta_lengths: tuple[int, ...] = ()


class DeleteReply(Command, frozen=True, kw_only=True):
    response_id: str

    @property
    def touches(self) -> tuple[str, ...]:
        return (self.response_id,)


class CompactContext(Command, frozen=True, kw_only=True):
    """`replaces`: the version of the summary that the new one takes in, 0 for none; it must still stand."""

    compaction_id: str
    summary: str
    first: str
    last: str
    depth: int
    count: int
    tokens_before: int
    tokens_after: int
    model: str
    replaces: int = 0
    usage: Usage | None = None
    cost: int | None = None


class UndoCompaction(Command, frozen=True, kw_only=True):
    pass


class RedoCompaction(Command, frozen=True, kw_only=True):
    pass


class EndConversation(Command, frozen=True, kw_only=True):
    reason: str | None = None


class ReopenConversation(Command, frozen=True, kw_only=True):
    pass


class DeleteConversation(Command, frozen=True, kw_only=True):
    pass
