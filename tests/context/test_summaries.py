"""Summaries of any conversation: they have at most so many tokens, and do not end in the middle of a turn."""

import random
from typing import Any

import pytest

from context.encodings import ENCODINGS
from context.summaries import can_end_at, omit_middle, portions, truncate
from context.tokens import count

ALPHABET = ("a word ", "Grüße ", "雪が降る。", "🙂", "....", "   ", "\n", "x" * 40, "مرحبا ", "e.g. ", "!?")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_truncated_text_is_never_longer_than_allowed(encoding: str) -> None:
    picked = random.Random(3)
    for _ in range(400):
        text = "".join(picked.choices(ALPHABET, k=picked.randint(1, 120)))
        most = picked.randint(1, 60)
        assert count(truncate(text, most, lambda part: count(part, encoding)), encoding) <= most
        most += 16
        assert count(omit_middle(text, most, lambda part: count(part, encoding)), encoding) <= most


def test_portions_fit_in_their_room_and_end_with_a_turn_if_one_fits() -> None:
    picked = random.Random(4)
    for _ in range(300):
        items: list[dict[str, Any]] = [
            {"type": "message", "role": picked.choice(("user", "assistant")), "content": "x"} for _ in range(30)
        ]
        sizes = [picked.randint(1, 10) for _ in items]
        ends = portions(items, sizes, 25)
        assert ends[-1] == len(items)
        assert ends == sorted(set(ends))
        for begin, end in zip([0, *ends], ends, strict=False):
            assert sum(sizes[begin:end]) <= 25
            if not can_end_at(items, end):
                assert not any(item["role"] == "user" for item in items[begin + 1 : end + 1])
