"""Counts tokens the way OpenAI's models do.

tiktoken alone fails on what people paste. The text of a special token raises an error. A million spaces overflow a stack, which raises a
`BaseException`. A megabyte takes more than half a second. So special tokens are counted as plain text, and a long text is
counted piece by piece.

A piece ends where no token can continue: between a word and the space after it, after a line, between letters and digits. Then the counts
of the pieces add up to the count of the text. Only a run of 12,288 characters without such a place (one very long word, or only
spaces) is cut anyway, and each such cut changes the sum by at most `CUT_ERROR` tokens. So the count of a text of n characters is
off by at most `CUT_ERROR * (n // 12_288)` tokens.
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
"""The most tokens by which one cut inside a run changes the sum. The most ever measured: 4 too many, 1 too few."""

MAX_INLINE_CHARACTERS: Final = 4_096
"""If the texts together are no longer than this, they are counted on the event loop. That takes about 2 ms, no more than a thread costs under load."""

EXACT_CUT: Final = re.compile(
    # Between a word and a space: the space joins the next word. Not before a newline, which joins punctuation before it.
    r"(?<=\S)(?=[ \t\xa0\u3000])"
    # After a newline. Not before a slash: it joins the punctuation before the newline.
    r"|(?<=\n)(?=[^\s/])"
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
    r"|(?<=[^\W_])(?=[.,;:!?\u3001\u3002\uff01\uff0c\uff1f])"
)
"""Where a text may be cut without changing its tokens."""


_O200K_WITH_MORE_SPECIAL_TOKENS = "o200k_harmony"
"""The encoding of gpt-oss. It has the vocabulary of o200k_base."""


def count(text: str, encoding: str = DEFAULT_ENCODING) -> int:
    """How many tokens `text` has. Special tokens count as plain text.

    Accepts any string, also one with lone surrogates. Counting takes linear time, about 2 MB a second. So count only
    short texts on the event loop. The module's docstring says how exact the count is. Raises ValueError for an unknown
    encoding.
    """
    encode = _encodings().get(encoding).encode_ordinary
    if len(text) <= MAX_PIECE_CHARACTERS:
        return len(encode(text))
    return sum(len(encode(piece)) for piece in split(text))


async def count_off_loop(
    texts: Sequence[str], encoding: str = DEFAULT_ENCODING, count_text: Callable[[str, str], int] = count
) -> list[int]:
    """The count of each text, in order.

    Texts of up to MAX_INLINE_CHARACTERS together are counted on the event loop if the encoding is loaded. All others are counted in a
    worker thread. If the caller is cancelled, the thread still counts all the texts.
    """
    if _encodings().is_loaded(encoding) and sum(map(len, texts)) <= MAX_INLINE_CHARACTERS:
        return [count_text(text, encoding) for text in texts]
    return await asyncio.to_thread(lambda: [count_text(text, encoding) for text in texts])


def is_exact(model: str) -> bool:
    """Whether tokens of this model are counted with the model's own vocabulary. If not, the counts are estimates."""
    try:
        return tiktoken.encoding_name_for_model(_name_alone(model)) in (*ENCODINGS, _O200K_WITH_MORE_SPECIAL_TOKENS)
    except KeyError:
        return False


def encoding_for(model: str) -> str:
    """The encoding in which a model's tokens are counted.

    `cl100k_base` for GPT-4, GPT-3.5 and embeddings, `o200k_base` for all others. For a model with another vocabulary
    the count is an estimate. A provider's prefix (`openai/gpt-4`) is skipped.
    """
    try:
        name = tiktoken.encoding_name_for_model(_name_alone(model))
    except KeyError:
        return DEFAULT_ENCODING
    return name if name in ENCODINGS else DEFAULT_ENCODING


def _name_alone(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def split(text: str) -> Iterator[str]:
    """The text in pieces of at most MAX_PIECE_CHARACTERS."""
    start = 0
    while len(text) - start > MAX_PIECE_CHARACTERS:
        cut = _cut(text, start)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(text: str, start: int) -> int:
    """The end of the piece that begins at `start`.

    It is the first EXACT_CUT in the second half of the next MAX_PIECE_CHARACTERS characters, or the last one in their
    first half. If there is no EXACT_CUT, the piece has MAX_PIECE_CHARACTERS characters.
    """
    middle, end = start + MAX_PIECE_CHARACTERS // 2, start + MAX_PIECE_CHARACTERS
    if match := EXACT_CUT.search(text, middle, end):
        return match.start()
    cut = end
    for match in EXACT_CUT.finditer(text, start + 1, middle + 1):
        cut = match.start()
    return cut


@functools.cache
def _encodings() -> Encodings:
    """The encodings of the process. Each vocabulary takes 40 to 75 MB, so it is loaded once."""
    return Encodings()
