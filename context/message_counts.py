"""Keeps the token counts of the messages used last: a Chat Completions request repeats all earlier messages.

A message has no id, so its count is found by the message's hash.
"""

from itertools import islice

from context.item_tokens import counted_text, fixed_tokens
from context.tokens import count_off_loop
from context.transcripts.chat_messages import Json, items_of
from context.transcripts.known_messages import SentMessages

MAX_COUNTS = 50_000
"""How many counts are kept. They take about 8 MB."""


class MessageCounts:
    """The tokens that messages add to a request, by message and encoding. The newest `max_counts` counts are kept."""

    def __init__(self, max_counts: int = MAX_COUNTS) -> None:
        self._max_counts = max_counts
        self._counts: dict[tuple[bytes, str], int] = {}

    async def of(self, sent: SentMessages, encoding: str) -> list[int]:
        """The tokens of each message in this encoding, in order: those of the items that it becomes."""
        keys = [(digest, encoding) for digest in sent.digests]
        counts = {key: count for key in keys if (count := self._counts.get(key)) is not None}
        missing = {key: message for key, message in zip(keys, sent.messages, strict=True) if key not in counts}
        if missing:
            counted = await _counted(missing, encoding)
            counts |= counted
            self._counts |= counted
            for oldest in list(islice(self._counts, max(0, len(self._counts) - self._max_counts))):
                del self._counts[oldest]
        return [counts[key] for key in keys]


async def _counted(messages: dict[tuple[bytes, str], Json], encoding: str) -> dict[tuple[bytes, str], int]:
    items = [(key, item) for key, message in messages.items() for item in items_of(message)]
    text_tokens = await count_off_loop([counted_text(item) for _, item in items], encoding)
    counts = dict.fromkeys(messages, 0)
    for (key, item), tokens in zip(items, text_tokens, strict=True):
        counts[key] += tokens + fixed_tokens(item)
    return counts
