"""The text of an item as search sees it: folded, and divided into terms. Pure. The view `search` and its queries both use it.

To fold a text, compatibility forms are replaced (NFKD: full-width letters, ligatures), accents and the vowel points of Arabic and Hebrew are
removed, and case is folded: ß becomes ss, İ becomes i, and a final sigma becomes a sigma. Characters that are not seen, such as joiners, are removed. Vowel signs
of Indian and South-East Asian scripts and the voicing marks of kana stay, because words differ in them alone.

A word is a sequence of letters, digits and marks. An emoji or another symbol is a word of its own. Scripts that write no spaces between words
(Chinese, Japanese, Thai …) give runs, and any part of a run can be found. All other characters only divide words.

`text` is what is compared: the words and runs, with one space before and after each. It contains ` green tea ` where this phrase is.
`terms` are the keys of the index: the words, and each character of a run together with the next one. The last character of a run is
a term of its own. So all places of one character are found with the terms that begin with it.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

import regex
from msgspec import Struct

MAX_CHARACTERS: Final = 10_000
"""Only this many characters of an item are searched: the first ones, before and after folding."""

MAX_TERMS: Final = 2_000
"""If an item has more different terms, only its beginning with this many different terms is searched."""

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
    """A word or a run, folded. `is_run`: whether it is a run."""

    text: str
    is_run: bool = False

    @property
    def terms(self) -> list[str]:
        """The keys of the token in the index, in order."""
        if not self.is_run:
            return [self.text]
        return [self.text[start : start + 2] for start in range(len(self.text))]


def tokens(folded: str) -> Iterator[Token]:
    """The words and runs of a folded text."""
    for match in _TOKEN.finditer(folded):
        is_run = match["run"] is not None
        yield Token(match[0] if is_run else match[0][:MAX_WORD_LENGTH], is_run)


def token_spans(folded: str) -> list[tuple[str, int]]:
    """The texts of `tokens`, each with the index of its first character in the folded text."""
    if folded.isascii():
        return [(match[0][:MAX_WORD_LENGTH], match.start()) for match in _ASCII_TOKEN.finditer(folded)]
    return [
        (match[0] if match["run"] is not None else match[0][:MAX_WORD_LENGTH], match.start())
        for match in _TOKEN.finditer(folded)
    ]


class SearchedText(Struct, frozen=True):
    """`text`, `terms`: see the module's docstring. Both are empty for an item without words. `words`: how many words the text has; two characters of a run count as one."""

    text: str
    terms: list[str]
    words: int


def searched(text: str) -> SearchedText:
    """What is stored of an item's text."""
    folded = fold(text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
    if folded.isascii():  # most messages are ASCII, and this takes a third of the time
        words = [word[:MAX_WORD_LENGTH] for word in _ASCII_TOKEN.findall(folded)]
        terms = dict.fromkeys(words)
        if len(terms) <= MAX_TERMS:
            return SearchedText(_joined(words), [*terms], len(words))
    return _beginning(tokens(folded))


def _beginning(found: Iterable[Token]) -> SearchedText:
    """The tokens up to the MAX_TERMS-th different term."""
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
