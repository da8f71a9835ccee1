"""Estimates the bytes of the events that a command leads to."""

from collections.abc import Sequence

from domain.commands import (
    AppendItems,
    Command,
    CompactContext,
    CompleteReply,
    DescribeConversation,
    FailReply,
    NewItem,
    QueueReply,
    RequestReply,
    ShareConversation,
    StartConversation,
    StopReply,
    UnshareConversation,
    WriteTitle,
)
from domain.events import InputItem, Transcript

_ROW_BYTES = 400

_PREFIX_BYTES = 250

_ID_BYTES = 40

_SHARES_BYTES = 10_000
"""Enough for a hundred shares of usual length. The event holds all shares of the conversation."""


def command_bytes(command: Command) -> int:
    match command:
        case AppendItems():
            return _items_bytes(command.items) + _PREFIX_BYTES * len(command.prefixes)
        case StartConversation():
            return _items_bytes(command.items) + 4 * len(command.instructions or "")
        case DescribeConversation():
            return _ROW_BYTES + 4 * len(command.instructions if isinstance(command.instructions, str) else "")
        case RequestReply():
            return _items_bytes(command.input) + len(command.parameters) + _transcript_bytes(command.transcript)
        case QueueReply():
            return _items_bytes(command.input) + len(command.parameters)
        case CompleteReply():
            prefixes = _PREFIX_BYTES * len(command.prefixes)
            return _items_bytes((*command.input, *command.output)) + 5 * len(command.delta_lengths) + prefixes
        case StopReply():
            prefixes = _PREFIX_BYTES * len(command.prefixes)
            return _items_bytes((*command.input, *command.output)) + 5 * len(command.delta_lengths) + prefixes
        case FailReply():
            return _items_bytes(command.output) + 5 * len(command.delta_lengths)
        case WriteTitle():
            return _ROW_BYTES + 4 * len(command.title)
        case CompactContext():
            return _ROW_BYTES + 4 * len(command.summary)
        case ShareConversation() | UnshareConversation():
            return _SHARES_BYTES
        case _:
            return _ROW_BYTES


def _items_bytes(items: Sequence[NewItem | InputItem]) -> int:
    return _ROW_BYTES * (1 + len(items)) + sum(len(item.item) for item in items)


def _transcript_bytes(transcript: Transcript | None) -> int:
    if transcript is None:
        return 0
    texts = (*transcript.instructions, *(part.changes or part.message or b"" for part in transcript.parts))
    return sum(map(len, texts)) + _ID_BYTES * sum(len(part.items) for part in transcript.parts)
