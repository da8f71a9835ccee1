"""Counts tokens the way OpenAI's models do.

tiktoken alone fails on what people paste. The text of a special token raises an error. A million spaces overflow a
stack, which raises a `BaseException`. So special tokens count as plain text, and a long text is counted in pieces. A
piece ends where no token can continue. A run of 12,288 characters without such a place is cut anyway. So the
count of n characters is off by at most `CUT_ERROR * (n // 12_288)` tokens.
"""

import asyncio
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import tiktoken

from context.encodings import DEFAULT_ENCODING, ENCODINGS, Encodings

MAX_PIECE_CHARACTERS: Final = 12_288
"""A multiple of 3 and of 128, so that cuts stay aligned with groups of three digits and with long tokens of spaces."""

CUT_ERROR: Final = 8
"""The most tokens by which one cut inside a run changes the sum. Measured: 4 too many, 1 too few."""

MAX_INLINE_CHARACTERS: Final = 4_096
"""Counting this many characters on the event loop takes about 2 ms, no more than a thread costs under load."""

EXACT_CUT: Final = re.compile(
    # Between a word and a space, which joins the next word. Not before a newline, which joins punctuation before it.
    r"(?<=\S)(?=[ \t\xa0\u3000])"
    # After a newline. Not before a slash, which joins the punctuation before the newline.
    r"|(?<=\n)(?=[^\s/])"
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
    r"|(?<=[^\W_])(?=[.,;:!?\u3001\u3002\uff01\uff0c\uff1f])"
)
"""Where a text may be cut without changing its tokens."""


_O200K_WITH_MORE_SPECIAL_TOKENS = "o200k_harmony"
"""The encoding of gpt-oss. It has the vocabulary of o200k_base."""


def count(text: str, encoding: str = DEFAULT_ENCODING) -> int:
    """Special tokens count as plain text.

    Any string is accepted. Counts about 2 MB a second. Raises ValueError for an unknown encoding.
    """
    encode = _encodings().get(encoding).encode_ordinary
    if len(text) <= MAX_PIECE_CHARACTERS:
        return len(encode(text))
    return sum(len(encode(piece)) for piece in split(text))


async def count_off_loop(
    texts: Sequence[str], encoding: str = DEFAULT_ENCODING, count_text: Callable[[str, str], int] = count
) -> list[int]:
    """Short texts are counted on the event loop if the encoding is loaded, all others in a thread.

    After a cancellation, the thread still counts to the end.
    """
    if _encodings().is_loaded(encoding) and sum(map(len, texts)) <= MAX_INLINE_CHARACTERS:
        return [count_text(text, encoding) for text in texts]
    return await asyncio.to_thread(lambda: [count_text(text, encoding) for text in texts])


def is_exact(model: str) -> bool:
    """Whether the model's tokens can be counted exactly."""
    try:
        return tiktoken.encoding_name_for_model(_name_alone(model)) in (*ENCODINGS, _O200K_WITH_MORE_SPECIAL_TOKENS)
    except KeyError:
        return False


def encoding_for(model: str) -> str:
    """tiktoken's encoding of the model if it is one of ENCODINGS, `o200k_base` for all other models.

    A provider's prefix (`openai/gpt-4`) is skipped.
    """
    try:
        name = tiktoken.encoding_name_for_model(_name_alone(model))
    except KeyError:
        return DEFAULT_ENCODING
    return name if name in ENCODINGS else DEFAULT_ENCODING


def _name_alone(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def split(text: str) -> Iterator[str]:
    """Pieces of at most MAX_PIECE_CHARACTERS, cut where no token is split if possible."""
    start = 0
    while len(text) - start > MAX_PIECE_CHARACTERS:
        cut = _cut(text, start)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(text: str, start: int) -> int:
    """The first EXACT_CUT in the second half of the piece, else the last one in the first half, else the end."""
    middle, end = start + MAX_PIECE_CHARACTERS // 2, start + MAX_PIECE_CHARACTERS
    if match := EXACT_CUT.search(text, middle, end):
        return match.start()
    cut = end
    for match in EXACT_CUT.finditer(text, start + 1, middle + 1):
        cut = match.start()
    return cut


@functools.cache
def _encodings() -> Encodings:
    """Each vocabulary takes 40 to 75 MB, so it is loaded once."""
    return Encodings()
