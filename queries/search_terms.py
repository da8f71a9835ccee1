"""What a search asks for: the parts of its `q`, and how each part is found in the view `search`.

A part is a word, a "phrase" or a prefix*; a `-` before a part excludes it. All other parts must match. A part matches if the stored text contains the text
of the part (`projections/views/search_text.py`), which is never a pattern. Its terms select the documents to compare.
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
"""The highest character. In MongoDB's order, a prefix with this character at its end comes after all terms that begin with the prefix."""


class Part(Struct, frozen=True):
    """`text`: what a matching text contains, spaces included. `terms`: every document with a matching text has these terms.

    `prefix`: every document with a matching text has a term that begins with this. It is only set if there are no `terms`.
    """

    text: str
    terms: tuple[str, ...]
    prefix: str | None = None

    @property
    def is_one_term(self) -> bool:
        """Whether exactly the documents with the part's only term match the part."""
        return len(self.terms) == 1 and self.text.strip(" ") == self.terms[0]

    @property
    def prefix_range(self) -> dict[str, str]:
        """The condition for terms that begin with the part's `prefix`."""
        assert self.prefix is not None
        return terms_from(self.prefix)


def terms_from(prefix: str) -> dict[str, str]:
    """The condition for terms that begin with `prefix`, as MongoDB compares them."""
    return {"$gte": prefix, "$lt": prefix + _LAST}


class SearchTerms(Struct, frozen=True):
    """A parsed `q`: the parts that must match, and those that must not."""

    wanted: tuple[Part, ...]
    unwanted: tuple[Part, ...]


def parse(q: str) -> SearchTerms:
    """The parts of `q`. Raises ApiError (400) if `q` is too long, has too many parts, has a quote that is not closed, or names nothing to search for."""
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
    """The part that this text of `q` names. None if it has no letters, digits or symbols."""
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
    """The terms that a matching document must have. In the document, more characters may follow the last word of a prefix and the last character of a run. So these are left out."""
    for token in found:
        is_last = token is found[-1]
        terms = token.terms
        if is_last and (is_prefix or token.is_run):
            terms = terms[:-1]
        yield from terms


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_query", param="q")
