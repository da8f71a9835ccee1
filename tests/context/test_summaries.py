"""Truncated texts, and portions of small items, have at most the allowed size. A portion ends with a turn if possible."""

import random
from typing import Any

import pytest

from context.encodings import ENCODINGS
from context.summaries import can_end_at, omit_middle, portions, truncate
from context.tokens import count

ALPHABET = ("a word ", "Grüße ", "雪が降る。", "🙂", "....", "   ", "\n", "x" * 40, "مرحبا ", "e.g. ", "!?")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_truncated_text_is_never_longer_than_allowed(encoding: str) -> None:
    randomness = random.Random(3)
    for _ in range(400):
        text = "".join(randomness.choices(ALPHABET, k=randomness.randint(1, 120)))
        max_tokens = randomness.randint(1, 60)
        assert count(truncate(text, max_tokens, lambda part: count(part, encoding)), encoding) <= max_tokens
        max_tokens += 16
        assert count(omit_middle(text, max_tokens, lambda part: count(part, encoding)), encoding) <= max_tokens


def test_a_portion_of_small_items_has_at_most_the_given_tokens() -> None:
    randomness = random.Random(4)
    for _ in range(300):
        items: list[dict[str, Any]] = [
            {"type": "message", "role": randomness.choice(("user", "assistant")), "content": "x"} for _ in range(30)
        ]
        sizes = [randomness.randint(1, 10) for _ in items]
        ends = portions(items, sizes, 25)
        assert ends[-1] == len(items)
        assert ends == sorted(set(ends))
        for begin, end in zip([0, *ends], ends, strict=False):
            assert sum(sizes[begin:end]) <= 25
            if not can_end_at(items, end):
                assert not any(item["role"] == "user" for item in items[begin + 1 : end + 1])
