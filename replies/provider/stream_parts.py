"""What a provider's streamed answer is made of, whichever API it speaks: output items that begin, grow and end, one at a time."""

from msgspec import Struct

from domain.events import Usage
from domain.items import Item


class ItemStarted(Struct, frozen=True):
    """An output item begins, and the one before it is whole. Without its text: `{"type": "message", "role": "assistant"}`,
    `{"type": "function_call", "call_id", "name"}`, `{"type": "reasoning"}`, or any other as the provider has it, without ids."""

    item: Item


class ItemDelta(Struct, frozen=True):
    """The item that began last grows by this text: of a message, a function call's arguments, a reasoning's words. Never empty."""

    text: str


class ItemDone(Struct, frozen=True):
    """The item that began last is whole, and has these fields beside its text, such as `encrypted_content` or `summary`."""

    fields: Item


class Finished(Struct, frozen=True):
    """The answer is whole. `finish_reason`: `stop`, `length`, `tool_calls`, `content_filter`; `usage` where the provider gave it."""

    finish_reason: str
    usage: Usage | None = None
    model: str | None = None


Piece = ItemStarted | ItemDelta | ItemDone | Finished
"""The last of an answer is its one Finished."""


class AnswerText(Struct, frozen=True):
    """An answer's text, whole."""

    text: str
    usage: Usage | None
    model: str | None
