"""The text of an item as search sees it: folded, and divided into terms. Pure.

Folding replaces compatibility forms (NFKD), removes accents, vowel points and unseen characters, and folds case. Vowel
signs of Indian and South-East Asian scripts and the voicing marks of kana stay, because two words may differ only there.

A word is a sequence of letters, digits and marks. A symbol is a word of its own. Scripts that write no spaces between
words (Chinese, Japanese, Thai …) give runs. Any part of a run can be found.

`text`: the words and runs, with one space before and after each. `terms`: the words, and each character of a run
  together with the next character. The last character of a run is a term of its own. So a single character is found as
  the beginning of a term.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

import regex
from msgspec import Struct

MAX_CHARACTERS: Final = 10_000
"""Longer texts are cut, before and after folding."""

MAX_TERMS: Final = 2_000
"""If an item has more different terms, only its beginning is searched."""

MAX_WORD_LENGTH: Final = 64
"""Only this many characters of a word are searched."""

_RUN = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TOKEN: Final = regex.compile(
    rf"(?P<run>[{_RUN}][{_RUN}\u3099\u309a]*)|[[\p{{L}}\p{{N}}]--[{_RUN}]][[\p{{L}}\p{{N}}\p{{M}}]--[{_RUN}]]*|\p{{So}}",
    regex.VERSION1,
)
_ASCII_TOKEN: Final = regex.compile(r"[a-z0-9]+")
_ACCENT_CLASSES = (1, *range(10, 37), 202, 214, 216, 218, 220, 222, 224, 226, 228, 230, 232, 233, 234, 240)
"""The combining classes of marks that are removed. Marks of other classes, such as Indian vowel signs, stay."""

_ACCENTS = "".join(rf"\p{{ccc={number}}}" for number in _ACCENT_CLASSES)
_REMOVED: Final = regex.compile(rf"[{_ACCENTS}\p{{Cf}}\u0640\ufe00-\ufe0f]+")


def fold(text: str) -> str:
    """The text without the differences that search ignores. Folding a folded text changes nothing."""
    if text.isascii():
        return text.lower()
    bare = _REMOVED.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare.casefold())


class Token(Struct, frozen=True):
    text: str
    is_run: bool = False

    @property
    def terms(self) -> list[str]:
        if not self.is_run:
            return [self.text]
        return [self.text[start : start + 2] for start in range(len(self.text))]


def tokens(folded: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(folded):
        is_run = match["run"] is not None
        yield Token(match[0] if is_run else match[0][:MAX_WORD_LENGTH], is_run)


def token_spans(folded: str) -> list[tuple[str, int]]:
    """The text of each token, with the index of its first character in the folded text."""
    if folded.isascii():
        return [(match[0][:MAX_WORD_LENGTH], match.start()) for match in _ASCII_TOKEN.finditer(folded)]
    return [
        (match[0] if match["run"] is not None else match[0][:MAX_WORD_LENGTH], match.start())
        for match in _TOKEN.finditer(folded)
    ]


class SearchedText(Struct, frozen=True):
    """What the view `search` has of a text.

    `words`: how many words the text has; two characters of a run count as one word.
    """

    text: str
    terms: list[str]
    words: int


def searched(text: str) -> SearchedText:
    folded = fold(text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
    if folded.isascii():  # most messages are ASCII, and this takes a third of the time
        words = [word[:MAX_WORD_LENGTH] for word in _ASCII_TOKEN.findall(folded)]
        terms = dict.fromkeys(words)
        if len(terms) <= MAX_TERMS:
            return SearchedText(_joined(words), [*terms], len(words))
    return _beginning(tokens(folded))


def _beginning(found: Iterable[Token]) -> SearchedText:
    kept: list[str] = []
    terms: dict[str, None] = {}
    words = 0
    for token in found:
        for index, term in enumerate(token.terms):
            if term not in terms and len(terms) == MAX_TERMS:
                return SearchedText(_joined([*kept, token.text[:index]] if index else kept), [*terms], words)
            terms[term] = None
        kept.append(token.text)
        words += (len(token.text) + 1) // 2 if token.is_run else 1
    return SearchedText(_joined(kept), [*terms], words)


def _joined(words: Iterable[str]) -> str:
    text = " ".join(words)
    return f" {text} " if text else ""
