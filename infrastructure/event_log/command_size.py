"""How many bytes of events a command will make, estimated: the queue and a batch are bounded by it."""

from collections.abc import Sequence

from domain.commands import (
    AppendItems,
    CancelReply,
    Command,
    CompactContext,
    CompleteReply,
    DescribeConversation,
    FailReply,
    InterruptReply,
    NewItem,
    RequestReply,
    StartConversation,
)
from domain.events import InputItem

_ROW_BYTES = 400
"""About what an event's row takes in addition to the item in it."""


def command_bytes(command: Command) -> int:
    """The estimate for one command."""
    match command:
        case AppendItems():
            return _items_bytes(command.items)
        case StartConversation():
            return _items_bytes(command.items) + 4 * len(command.instructions or "")
        case DescribeConversation():
            return _ROW_BYTES + 4 * len(command.instructions if isinstance(command.instructions, str) else "")
        case RequestReply():
            return _items_bytes(command.input) + len(command.parameters)
        case CompleteReply():
            return _items_bytes((*command.input, *command.output)) + 5 * len(command.delta_lengths)
        case FailReply() | CancelReply() | InterruptReply():
            return _items_bytes(command.output) + 5 * len(command.delta_lengths)
        case CompactContext():
            return _ROW_BYTES + 4 * len(command.summary)
        case _:
            return _ROW_BYTES


def _items_bytes(items: Sequence[NewItem | InputItem]) -> int:
    return _ROW_BYTES * (1 + len(items)) + sum(len(new.item) for new in items)
