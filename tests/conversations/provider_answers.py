"""The answers of the provider. Each text has a word that is in no other text."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tests.conversations.draws import COMMON_WORDS
from tests.conversations.failed_replies import FAILING_MODEL
from tests.conversations.reply_commands import ENDLESS_MODEL
from tests.scripted_provider import Exchange

MAX_WORDS = 5
"""How many words an endless answer has after its first word. A preview shows them all."""


class ProviderAnswers:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = count(1)
        self._is_slow = False

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Answers take a while, so that replies run at the same time."""
        self._is_slow = True
        yield
        self._is_slow = False

    def answer(self, exchange: Exchange) -> None:
        first, other = f"a{next(self._numbers)}x", self._random.choice(COMMON_WORDS)
        if exchange.body["model"] == FAILING_MODEL:
            return exchange.json(400, {"error": {"message": "No."}}, x_should_retry="false")
        if exchange.body["model"] == ENDLESS_MODEL:
            exchange.begin_stream()
            exchange.text_chunk(first)
            for number in count():
                exchange.text_chunk(f" {other}" if number < MAX_WORDS else "")
                time.sleep(0.02)
        if self._is_slow:
            time.sleep(self._random.choice((0, 0.1, 0.3)))
        return exchange.stream_text(f"{first} ", other)
