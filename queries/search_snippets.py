"""Snippets of hits: the part of an item's text where the words are, and where in it they are.

The parts of a query are compared with the folded text, so each character of it is traced to the characters it was made from.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

import regex
from msgspec import Struct

from projections.views.search_text import MAX_CHARACTERS, fold, token_spans
from queries.search_terms import Part

MAX_SNIPPET: Final = 200
"""The longest snippet in characters, without the marks of what was cut off."""

_BEFORE: Final = 60
_CUT: Final = "…"
_WORD_BREAK: Final = 20
"""A snippet begins and ends at a space if there is one within this many characters."""

_PIECE: Final = regex.compile(r"\s+|\S+")
_CLUSTER: Final = regex.compile(r"[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+\p{M}*|\P{M}?\p{M}*")
"""The smallest parts of a piece that can be folded one by one: a letter with its marks, or the parts of Korean syllables."""

Span = tuple[int, int]


class Snippet(Struct, frozen=True):
    """`highlights`: [start, end) of each match, in characters (code points) of `text`. Ascending, without overlaps."""

    text: str
    highlights: list[Span]


def snippet(text: str, wanted: Iterable[Part]) -> Snippet:
    """The part of the text that has the most matches of the first ones, or its beginning."""
    text = text[:MAX_CHARACTERS]
    spans = _merged(_matches(text, wanted))
    start, end = _window(text, spans)
    before, after = _CUT if start else "", _CUT if end < len(text) else ""
    shift = len(before) - start
    shown = [(first + shift, min(last, end) + shift) for first, last in spans if start <= first < end]
    return Snippet(f"{before}{text[start:end]}{after}", shown)


def _matches(text: str, wanted: Iterable[Part]) -> Iterator[Span]:
    """The parts of the text that match, in characters of the text."""
    folded, origins = _traced(text)
    searched, folded_indexes = " ", [0]  # of each character of `searched`
    for token, start in token_spans(folded):
        searched += f"{token.text} "
        folded_indexes += [*range(start, start + len(token.text)), start + len(token.text) - 1]
    for part in wanted:
        inner = part.text.strip(" ")
        lead = part.text.index(inner)
        at = searched.find(part.text)
        while at >= 0:
            first = at + lead
            yield origins[folded_indexes[first]][0], origins[folded_indexes[first + len(inner) - 1]][1]
            at = searched.find(part.text, at + max(1, len(inner)))


def _traced(text: str) -> tuple[str, list[Span]]:
    """The folded text, and for each of its characters the span of the text that it was made from."""
    folded: list[str] = []
    origins: list[Span] = []
    for match in _PIECE.finditer(text):
        piece, start = match[0], match.start()
        folded_piece = fold(piece)
        if len(folded_piece) == len(piece) and all(len(_folded_character(character)) == 1 for character in piece):
            folded.append(folded_piece)
            origins += [(index, index + 1) for index in range(start, match.end())]
            continue
        for cluster in _CLUSTER.finditer(piece):
            folded_cluster = fold(cluster[0])
            folded.append(folded_cluster)
            origins += [(start + cluster.start(), start + cluster.end())] * len(folded_cluster)
    return "".join(folded), origins


@lru_cache(8_192)
def _folded_character(character: str) -> str:
    return fold(character)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _window(text: str, spans: list[Span]) -> Span:
    """Which part of the text is shown: the one with the most matches; of several, the first."""
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
