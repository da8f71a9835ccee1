"""Keeps the token counts of the messages used last: a Chat Completions request repeats all earlier messages.

A message has no id, so its count is found by the message's hash.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from context.item_tokens import counted_text, fixed_tokens
from context.tokens import count_off_loop
from context.transcripts.chat_messages import Json, items_of

MAX_COUNTS = 50_000
"""How many counts are kept. They take about 8 MB."""


class MessageCounts:
    """The tokens that messages add to a request, by message and encoding. The `max_counts` counts used last are kept."""

    def __init__(self, max_counts: int = MAX_COUNTS) -> None:
        self._max_counts = max_counts
        self._counts: OrderedDict[tuple[bytes, str], int] = OrderedDict()

    async def of(self, messages: Sequence[Json], encoding: str) -> list[int]:
        """The tokens of each message in this encoding, in order: those of the items that it becomes."""
        keys = [(_hash(message), encoding) for message in messages]
        counts = {key: self._counts[key] for key in keys if key in self._counts}
        missing = {key: message for key, message in zip(keys, messages, strict=True) if key not in counts}
        counts |= await _counted(missing, encoding)
        # While this waited, other calls may have displaced some of these counts from the cache. So all are stored.
        for key, count in counts.items():
            self._counts[key] = count
            self._counts.move_to_end(key)
        while len(self._counts) > self._max_counts:
            self._counts.popitem(last=False)
        return [counts[key] for key in keys]


def _hash(message: Json) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(message), digest_size=16).digest()


async def _counted(messages: dict[tuple[bytes, str], Json], encoding: str) -> dict[tuple[bytes, str], int]:
    items = [(key, item) for key, message in messages.items() for item in items_of(message)]
    text_tokens = await count_off_loop([counted_text(item) for _, item in items], encoding)
    counts = dict.fromkeys(messages, 0)
    for (key, item), tokens in zip(items, text_tokens, strict=True):
        counts[key] += tokens + fixed_tokens(item)
    return counts
