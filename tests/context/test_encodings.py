"""The encodings equal those of tiktoken, and are loaded without the network."""

import gzip
import hashlib
import importlib
import random
import sys
import threading
from itertools import islice
from pathlib import Path

import pytest
import tiktoken

from context.encodings import ENCODINGS, Encodings, load_encoding, read_ranks, vocabulary_file
from scripts.loading.sources import Chitchat, Conversation

ODD = (
    "", " ", "\n\n \n", "\r\n\t x", "a\u0301 e\u0301le\u0300ve", "ǅ Ⅷ ² ½ ٣٤٥ १२३", "雪が降る。明日も。", "مرحبا بالعالم", "ครั้งที่ ๓",
    "👩‍👩‍👧‍👦🏳️‍🌈😀", "don't DON'T I'LL we've", "<|endoftext|><|fim_prefix|><|endofprompt|>", "x = f(a_b)[0]; // no\r\n\r\n/* y */",
    "https://a.b/c?d=e&f=%20", "3.14159 1,000,000 2026-11-29T09:28:32Z", "\u2028\x85\x1c\xa0\u3000\u200d\ufeff", "\0\x01", "z" * 400,
    " " * 300 + "end", "\t" * 50, "!?" * 80,
)  # fmt: skip
ALPHABET = [*"aZéß的😀\uff10\uff199 \t\n\r'.,/-_<|>", "\u0301", "\u3000", "'s", "'LL", "word"]


def corpus() -> list[str]:
    """Messages of people, odd texts, and random mixtures of characters that encodings distinguish."""
    conversations = (loaded for loaded in islice(Chitchat(), 400) if isinstance(loaded, Conversation))
    messages = [item["content"] for conversation in conversations for item in conversation.items]
    randomness = random.Random(1)
    mixtures = ["".join(randomness.choices(ALPHABET, k=randomness.randint(1, 60))) for _ in range(3_000)]
    return [*messages, "\n\n".join(messages[:2_000]), *ODD, *mixtures]


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_corpus_is_encoded_and_decoded_as_by_tiktokens_own_definition(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    cached = tmp_path / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    cached.write_bytes(gzip.decompress(vocabulary_file(name).read_bytes()))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    definition = getattr(importlib.import_module("tiktoken_ext.openai_public"), name)
    theirs = tiktoken.Encoding(**definition())
    ours = load_encoding(name)
    texts = corpus()
    assert len(texts) > 10_000
    for text in texts:
        tokens = ours.encode_ordinary(text)
        assert tokens == theirs.encode_ordinary(text)
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
        assert ours.decode(tokens) == text
    assert ours.special_tokens_set == theirs.special_tokens_set
    assert ours.n_vocab == theirs.n_vocab


@pytest.mark.parametrize(("name", "expected"), [("o200k_base", [24912, 2375]), ("cl100k_base", [15339, 1917])])
def test_each_vocabulary_encodes_a_known_text_to_the_published_tokens(name: str, expected: list[int]) -> None:
    assert load_encoding(name).encode_ordinary("hello world") == expected


def test_loading_needs_no_network_and_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/nonexistent")
    monkeypatch.setitem(sys.modules, "requests", None)
    assert load_encoding("cl100k_base").encode_ordinary("hello world") == [15339, 1917]


def test_a_vocabulary_with_another_hash_is_refused() -> None:
    with pytest.raises(RuntimeError, match="not the one OpenAI published"):
        read_ranks(vocabulary_file("o200k_base"), "0" * 64)


def test_eight_threads_load_a_vocabulary_once() -> None:
    loads: list[str] = []

    def load(name: str) -> tiktoken.Encoding:
        loads.append(name)
        return load_encoding(name)

    encodings = Encodings(load)
    threads = [threading.Thread(target=encodings.get, args=("cl100k_base",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["cl100k_base"]
    assert encodings.is_loaded("cl100k_base")
    assert not encodings.is_loaded("o200k_base")
