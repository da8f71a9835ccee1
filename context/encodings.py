"""The two vocabularies that tokens are counted with, as tiktoken encodings.

Nothing is downloaded: the vocabularies come from the `bpe-openai` wheel. Patterns and special tokens come from
`tiktoken_ext/openai_public.py`.
"""

import base64
import gzip
import hashlib
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import tiktoken
from msgspec import Struct

ENCODINGS: Final = ("o200k_base", "cl100k_base")
DEFAULT_ENCODING: Final = "o200k_base"


class _Definition(Struct, frozen=True):
    """`pattern` splits a text into words before any two bytes are merged."""

    vocabulary_sha256: str
    pattern: str
    special_tokens: dict[str, int]


_DEFINITIONS = {
    "o200k_base": _Definition(
        vocabulary_sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern=(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        special_tokens={"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018},
    ),
    "cl100k_base": _Definition(
        vocabulary_sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        special_tokens={
            "<|endoftext|>": 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            "<|endofprompt|>": 100_276,
        },
    ),
}


def load_encoding(name: str) -> tiktoken.Encoding:
    """Takes about half a second."""
    definition = _DEFINITIONS[name]
    return tiktoken.Encoding(
        name,
        pat_str=definition.pattern,
        mergeable_ranks=read_ranks(vocabulary_file(name), definition.vocabulary_sha256),
        special_tokens=definition.special_tokens,
    )


def vocabulary_file(name: str) -> Path:
    """The package is not imported, because the import parses every vocabulary."""
    wheel = find_spec("bpe_openai")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModuleNotFoundError("bpe-openai, the package with the vocabularies, is not installed")
    return Path(wheel.submodule_search_locations[0], "data", f"{name}.tiktoken.gz")


def read_ranks(file: Path, sha256: str) -> dict[bytes, int]:
    """Each token's bytes and its rank. Raises RuntimeError if the file has another SHA-256."""
    data = gzip.decompress(file.read_bytes())
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RuntimeError(f"the vocabulary {file.name} is not the one OpenAI published")
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}


class Encodings:
    """Loads each encoding when it is first needed."""

    def __init__(self, load: Callable[[str], tiktoken.Encoding] = load_encoding) -> None:
        self._load = load
        self._loaded: dict[str, tiktoken.Encoding] = {}
        self._loading = threading.Lock()

    def is_loaded(self, name: str) -> bool:
        return name in self._loaded

    def get(self, name: str) -> tiktoken.Encoding:
        """Raises ValueError for an unknown name."""
        if (loaded := self._loaded.get(name)) is not None:
            return loaded
        if name not in ENCODINGS:
            raise ValueError(f"unknown encoding {name!r}: use one of {', '.join(ENCODINGS)}")
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]
