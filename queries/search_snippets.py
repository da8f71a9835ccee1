"""A snippet is a part of a hit's text with the words that were found, and says where the words are."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

import regex
from msgspec import Struct

from projections.views.search_text import MAX_CHARACTERS, fold, token_spans
from queries.search_terms import Part

MAX_SNIPPET: Final = 200
"""Characters, without the `…` at an end that was cut off."""

_BEFORE: Final = 60
_CUT: Final = "…"
_WORD_BREAK: Final = 20
"""A snippet begins and ends at a space if there is one within this many characters."""

_CLUSTER: Final = regex.compile(r"[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+\p{M}*|\P{M}?\p{M}*")
"""The smallest parts of a text that can be folded alone: a letter with its marks, or the parts of Korean syllables."""

_CHUNK: Final = regex.compile(r"(?s).{1,64}[\p{M}\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]*")
"""A part of a text that does not end within a cluster."""

Span = tuple[int, int]


class Snippet(Struct, frozen=True):
    """`highlights`: [start, end) of each match, in code points of `text`. Ascending, without overlaps."""

    text: str
    highlights: list[Span]


def snippet(text: str, wanted: Iterable[Part]) -> Snippet:
    """Without a match, the beginning of the text."""
    text = text[:MAX_CHARACTERS]
    spans = _merged(_matches(text, wanted))
    start, end = _window(text, spans)
    before, after = _CUT if start else "", _CUT if end < len(text) else ""
    shift = len(before) - start
    shown = [(first + shift, min(last, end) + shift) for first, last in spans if start <= first < end]
    return Snippet(f"{before}{text[start:end]}{after}", shown)


def _matches(text: str, wanted: Iterable[Part]) -> Iterator[Span]:
    folded = _FoldedText(text)
    found = token_spans(folded.text)
    searched = f" {' '.join(word for word, _ in found)} "
    starts = [*accumulate((len(word) + 1 for word, _ in found), initial=1)]  # where each token begins in `searched`

    def origin(index: int) -> Span:
        token = bisect_right(starts, index) - 1
        return folded.origin(found[token][1] + index - starts[token])

    for part in wanted:
        inner = part.text.strip(" ")
        lead = part.text.index(inner)
        at = searched.find(part.text)
        while at >= 0:
            first = at + lead
            yield origin(first)[0], origin(first + len(inner) - 1)[1]
            at = searched.find(part.text, at + max(1, len(inner)))


class _FoldedText:
    """Finds where folded characters come from. Most chunks have no match, so a chunk is examined only when needed."""

    def __init__(self, text: str) -> None:
        self._chunks = [text] if text.isascii() else _CHUNK.findall(text)
        self._folded = [fold(chunk) for chunk in self._chunks]
        self._starts = [*accumulate(map(len, self._chunks), initial=0)]
        self._folded_starts = [*accumulate(map(len, self._folded), initial=0)]
        self._origins: dict[int, list[Span]] = {}
        self.text = "".join(self._folded)

    def origin(self, index: int) -> Span:
        number = bisect_right(self._folded_starts, index) - 1
        chunk, start = self._chunks[number], self._starts[number]
        index -= self._folded_starts[number]
        if chunk.isascii():
            return start + index, start + index + 1
        if number not in self._origins:
            self._origins[number] = [*_origins(chunk)]
        first, last = self._origins[number][index]
        return start + first, start + last


def _origins(chunk: str) -> Iterator[Span]:
    """For each character of the folded chunk, its span in the chunk."""
    for cluster in _CLUSTER.finditer(chunk):
        folded = fold(cluster[0])
        if len(folded) == len(cluster[0]) and all(len(fold(character)) == 1 for character in cluster[0]):
            yield from ((index, index + 1) for index in range(*cluster.span()))
        else:
            yield from (cluster.span() for _ in folded)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _window(text: str, spans: list[Span]) -> Span:
    if len(text) <= MAX_SNIPPET:
        return 0, len(text)
    firsts = [first for first, _ in spans] or [0]
    best = max(
        firsts, key=lambda first: bisect_right(firsts, first + MAX_SNIPPET - _BEFORE) - bisect_left(firsts, first)
    )
    start = max(0, min(best - _BEFORE, len(text) - MAX_SNIPPET))
    end = min(len(text), start + MAX_SNIPPET)
    if start and (space := text.find(" ", start, min(best, start + _WORD_BREAK))) >= 0:
        start = space + 1
    if end < len(text) and (space := text.rfind(" ", end - _WORD_BREAK, end)) > best:
        end = space
    return start, end
