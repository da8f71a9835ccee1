"""The parts of a provider's streamed answer, the same for both APIs. Output items come one after the other."""

from typing import Any

from msgspec import Struct

from domain.events import Usage
from domain.items import Item
from replies.provider.json_text import clean

MAX_TIER_LENGTH = 64


class ItemStarted(Struct, frozen=True):
    """An output item starts, and the item before it is complete.

    `item` has no id, and no text yet: `{"type": "message", "role": "assistant"}` (perhaps with `phase`), `{"type":
    "function_call", "call_id", "name"}`, `{"type": "reasoning"}`. Other types have the provider's fields.
    """

    item: Item


class PartStarted(Struct, frozen=True):
    """A part of the last item begins, and the part before it is complete.

    The first part has no PartStarted if it is `output_text` in a message or `reasoning_text` in reasoning.
    """

    kind: str


class ItemDelta(Struct, frozen=True):
    """More text of the last item, never empty."""

    text: str


class ItemDone(Struct, frozen=True):
    """More fields of the last item."""

    fields: Item


class Finished(Struct, frozen=True):
    """The end of the answer. `finish_reason`: `stop`, `length`, `tool_calls` or `content_filter`."""

    finish_reason: str
    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None


StreamPart = ItemStarted | PartStarted | ItemDelta | ItemDone | Finished


class AnswerText(Struct, frozen=True):
    text: str
    usage: Usage | None


def token_count(usage: Any, *path: str) -> int:
    """0 if there is no valid number at `path`."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if type(usage) is int and 0 <= usage < 2**53 else 0


def known_tier(tier: Any) -> str | None:
    """None if the tier is not a short text that can be stored."""
    return tier if isinstance(tier, str) and 0 < len(tier) <= MAX_TIER_LENGTH and clean(tier) == tier else None
