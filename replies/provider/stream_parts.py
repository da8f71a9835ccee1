"""The parts of a provider's streamed answer, the same for both APIs. Output items come one after the other, each with its start and text."""

from typing import Any

from msgspec import Struct

from domain.events import Usage
from domain.items import Item
from replies.provider.json_text import clean

MAX_TIER_LENGTH = 64


class ItemStarted(Struct, frozen=True):
    """An output item starts, and the one before it is complete.

    `item` has no id, and its text comes later: `{"type": "message", "role": "assistant"}` (perhaps with `phase`),
    `{"type": "function_call", "call_id", "name"}`, `{"type": "reasoning"}`. An item of any other type has the fields that the provider sent.
    """

    item: Item


class PartStarted(Struct, frozen=True):
    """A part of the item that started last begins, and the part before it is complete.

    `kind`: `output_text`, `refusal`, `reasoning_text` or `summary_text`. There is no PartStarted for the first part of an item if it has the usual
    kind: `output_text` in a message, `reasoning_text` in reasoning.
    """

    kind: str


class ItemDelta(Struct, frozen=True):
    """More text of the item that started last: of a part of a message or of reasoning, or of a call's arguments. Never empty."""

    text: str


class ItemDone(Struct, frozen=True):
    """The item that started last is complete, and now has these fields, such as `encrypted_content`. An item without such fields has no ItemDone."""

    fields: Item


class Finished(Struct, frozen=True):
    """The last part of every complete answer. `finish_reason`: `stop`, `length`, `tool_calls` or `content_filter`.

    `usage`, `model` and `service_tier` are None if the provider did not send them.
    """

    finish_reason: str
    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None


StreamPart = ItemStarted | PartStarted | ItemDelta | ItemDone | Finished


class AnswerText(Struct, frozen=True):
    """The text of a complete answer. `usage` is None if the provider did not send it."""

    text: str
    usage: Usage | None


def token_count(usage: Any, *path: str) -> int:
    """The number of tokens at `path` in a provider's usage object; 0 if there is no valid number."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if type(usage) is int and 0 <= usage < 2**53 else 0


def known_tier(tier: Any) -> str | None:
    """The `service_tier` that a provider reports; None if it is not a short text that can be stored."""
    return tier if isinstance(tier, str) and 0 < len(tier) <= MAX_TIER_LENGTH and clean(tier) == tier else None
