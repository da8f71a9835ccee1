"""The parts of a search's `q`, and how each part is found in the view `search`.

A part is a word, a "phrase" or a prefix*. A part with a `-` before it must not match. A part matches if the stored text
contains the part's text. The part's terms select the documents to compare.
"""

from collections.abc import Iterator
from typing import Final

import regex
from msgspec import Struct

from infrastructure.http.errors import ApiError
from projections.views.search_text import Token, fold, tokens

MAX_LENGTH: Final = 1_000
MAX_PARTS: Final = 32

_PART: Final = regex.compile(r'(?P<without>-)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')
_QUOTES: Final = str.maketrans("“”„«»", '"""""')
_LAST: Final = "\U0010ffff"
"""The highest character. In MongoDB, a prefix followed by this character comes after all terms with the prefix."""


class Part(Struct, frozen=True):
    """`text`: what a matching text contains, spaces included. `terms`: every matching document has all these terms.
    `prefix`: every matching document has a term with this prefix. Only set without `terms`.
    """

    text: str
    terms: tuple[str, ...]
    prefix: str | None = None

    @property
    def is_one_term(self) -> bool:
        """Whether the part matches exactly the documents that have its term."""
        return len(self.terms) == 1 and self.text.strip(" ") == self.terms[0]

    @property
    def prefix_range(self) -> dict[str, str]:
        assert self.prefix is not None
        return terms_from(self.prefix)


def terms_from(prefix: str) -> dict[str, str]:
    """The range of the terms with this prefix, as MongoDB compares them."""
    return {"$gte": prefix, "$lt": prefix + _LAST}


class SearchTerms(Struct, frozen=True):
    wanted: tuple[Part, ...]
    unwanted: tuple[Part, ...]


def parse(q: str) -> SearchTerms:
    """Raises ApiError (400) if `q` is too long, has too many parts or an open quote, or names nothing to find."""
    if len(q) > MAX_LENGTH:
        raise _invalid(f"`q` has more than {MAX_LENGTH} characters.")
    q = q.translate(_QUOTES)
    if q.count('"') % 2:
        raise _invalid("`q` has a quote that is not closed.")
    wanted: dict[Part, None] = {}
    unwanted: dict[Part, None] = {}
    for match in _PART.finditer(q):
        part = _part(match["phrase"] or match["word"] or "", is_phrase=match["phrase"] is not None)
        if part is not None:
            (unwanted if match["without"] else wanted)[part] = None
    if not wanted:
        raise _invalid("`q` must have at least one word, phrase or prefix to search for.")
    if len(wanted) + len(unwanted) > MAX_PARTS:
        raise _invalid(f"`q` has more than {MAX_PARTS} words, phrases and prefixes.")
    return SearchTerms((*wanted,), (*unwanted,))


def _part(source: str, *, is_phrase: bool) -> Part | None:
    """None if the text has no letters, digits or symbols."""
    found = [*tokens(fold(source))]
    if not found:
        return None
    is_prefix = not is_phrase and source.endswith("*") and not found[-1].is_run
    before = "" if found[0].is_run else " "
    after = "" if found[-1].is_run or is_prefix else " "
    text = f"{before}{' '.join(token.text for token in found)}{after}"
    terms = tuple(dict.fromkeys(_terms(found, is_prefix=is_prefix)))
    return Part(text, terms, None if terms else found[-1].text)


def _terms(found: list[Token], *, is_prefix: bool) -> Iterator[str]:
    """More characters may follow the last word of a prefix and the last character of a run. So these terms are left
    out.
    """
    for token in found:
        is_last = token is found[-1]
        terms = token.terms
        if is_last and (is_prefix or token.is_run):
            terms = terms[:-1]
        yield from terms


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_query", param="q")
