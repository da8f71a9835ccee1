"""Token counts are exact where possible. Elsewhere the error is bounded."""

import asyncio
import string
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context.encodings import ENCODINGS, Encodings
from context.tokens import CUT_ERROR, EXACT_CUT, MAX_PIECE_CHARACTERS, count, count_off_loop, encoding_for, split

AWKWARD = st.text(
    alphabet=[*"aAbZ019 \t\n\r\u3000\xa0.,;!?/'_-=<|ß²Ⅷ的\uff0c\u3002é\u0301\u0e01\u0e34\x1c\x85\u2028\u200d😀ǅ"],
    max_size=24,
)
RUN = st.text(alphabet=string.printable + "的是é\u0301😀", min_size=1, max_size=6)


ENCODING_OF = Encodings()


def count_in_one_piece(text: str, encoding: str) -> int:
    """Counts with tiktoken, without cutting the text."""
    return len(ENCODING_OF.get(encoding).encode_ordinary(text))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_empty_text_has_no_tokens(encoding: str) -> None:
    assert count("", encoding) == 0


def test_a_special_token_is_counted_as_plain_text() -> None:
    assert count("<|endoftext|>") > 1


def test_a_lone_surrogate_is_counted_and_does_not_raise() -> None:
    assert count("a\ud800b") >= 1


def test_an_unknown_encoding_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown encoding 'p99k_base'"):
        count("hello", "p99k_base")


@settings(max_examples=200, deadline=None)
@given(AWKWARD, st.sampled_from(ENCODINGS))
def test_a_cut_at_an_exact_place_changes_no_token(text: str, encoding: str) -> None:
    encode = ENCODING_OF.get(encoding).encode_ordinary
    for match in EXACT_CUT.finditer(text):
        cut = match.start()
        assert encode(text[:cut]) + encode(text[cut:]) == encode(text)


@settings(max_examples=40, deadline=None)
@given(RUN, st.integers(2 * MAX_PIECE_CHARACTERS, 4 * MAX_PIECE_CHARACTERS), st.sampled_from(ENCODINGS))
def test_a_long_run_is_counted_within_the_stated_bound(run: str, length: int, encoding: str) -> None:
    text = run * (length // len(run))
    assert abs(count(text, encoding) - count_in_one_piece(text, encoding)) <= CUT_ERROR * (
        len(text) // MAX_PIECE_CHARACTERS
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_long_prose_is_counted_exactly(encoding: str) -> None:
    prose = "Did the 3 of them go? They didn't -- it's 42 km.\n\n\tSo: said the fox, and left。\n" * 2_000
    assert count(prose, encoding) == count_in_one_piece(prose, encoding)


@pytest.mark.parametrize(
    "text", [" " * 1_000_000, "a" * 1_000_000, "\n" * 1_000_000, " \t" * 500_000, "的" * 1_000_000]
)
def test_a_run_of_a_million_characters_is_counted_within_20_seconds(text: str) -> None:
    count("load the vocabulary")
    started_at = time.perf_counter()
    assert count(text) > 0
    assert time.perf_counter() - started_at < 20


def test_the_pieces_of_a_text_together_are_the_text() -> None:
    text = ("word " * 3_000) + " " * 30_000 + "x" * 30_000
    parts = list(split(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= MAX_PIECE_CHARACTERS


async def test_long_texts_are_counted_in_a_thread() -> None:
    count("load the vocabulary")
    thread_ids: list[int] = []

    def counting(text: str, encoding: str) -> int:
        thread_ids.append(threading.get_ident())
        return count(text, encoding)

    assert await count_off_loop(["hello world", ""], count_text=counting) == [2, 0]
    assert await count_off_loop(["hello world", " hello" * 1_000], count_text=counting) == [2, 1_000]

    event_loop_thread = threading.get_ident()
    assert [thread_id == event_loop_thread for thread_id in thread_ids] == [True, True, False, False]


async def test_the_event_loop_runs_while_a_long_text_is_counted() -> None:
    counting = asyncio.ensure_future(count_off_loop(["the quick brown fox " * 50_000]))
    turns = 0
    while not counting.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert await counting == [200_001]
    assert turns > 10


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1-mini", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("SmolLM2-135M", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_the_name_of_a_model_gives_its_encoding(model: str, encoding: str) -> None:
    assert encoding_for(model) == encoding
