"""Counts the tokens of a Chat Completions request's messages.

A request usually repeats all earlier messages, and only the new messages are counted. The leading system and developer
messages have a count of their own, because clients change these messages often.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from context.item_tokens import counted_text, fixed_tokens
from context.tokens import count_off_loop
from context.transcripts.chat_messages import Json, items_of
from context.transcripts.known_messages import SentMessages
from context.transcripts.prefix_hashes import exact_hashes

MAX_COUNTS = 50_000
"""So many counts take about 10 MB."""

MAX_COUNTED_CHARACTERS = 1_000_000
"""Counting so many characters takes about half a second. The tokens of further text are estimated."""


class MessageCounts:
    def __init__(self, max_counts: int = MAX_COUNTS) -> None:
        self._max_counts = max_counts
        self._counts: dict[tuple[bytes, str], int] = {}

    async def total(self, sent: SentMessages, encoding: str) -> int:
        start = sent.instructions
        instructions = await self._of_all(sent.messages[:start], exact_hashes(sent.digests[:start]), encoding)
        return instructions + await self._of_all(sent.messages[start:], sent.exact, encoding)

    async def _of_all(self, messages: Sequence[Json], hashes: Sequence[bytes], encoding: str) -> int:
        """`hashes`: for each message, the hash of all messages up to and including it."""
        if not messages:
            return 0
        counts = self._counts
        counted = next((end for end in range(len(hashes), 0, -1) if (hashes[end - 1], encoding) in counts), 0)
        tokens = counts[hashes[counted - 1], encoding] if counted else 0
        if counted < len(messages):
            tokens += await _count(messages[counted:], encoding)
            counts[hashes[-1], encoding] = tokens
            for oldest in list(islice(counts, max(0, len(counts) - self._max_counts))):
                del counts[oldest]
        return tokens


async def _count(messages: Iterable[Json], encoding: str) -> int:
    items = [item for message in messages for item in items_of(message)]
    texts = [counted_text(item) for item in items]
    sample: list[str] = []
    characters_left = MAX_COUNTED_CHARACTERS
    for text in texts:
        sample.append(text[:characters_left])
        characters_left -= len(sample[-1])
    tokens = sum(await count_off_loop(sample, encoding))
    if not characters_left:
        tokens = tokens * sum(map(len, texts)) // MAX_COUNTED_CHARACTERS
    return tokens + sum(map(fixed_tokens, items))
