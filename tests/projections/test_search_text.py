"""How a text is folded and divided into terms for search."""

import sys

import pytest

from projections.views.search_text import MAX_CHARACTERS, MAX_TERMS, fold, searched


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("Straße STRASSE", "strasse strasse"),
        ("İstanbul", "istanbul"),
        ("ΟΔΟΣ οδός", "\u03bf\u03b4\u03bf\u03c3 \u03bf\u03b4\u03bf\u03c3"),
        ("مُحَمَّد أحمد", "محمد احمد"),
        ("\uff21\uff22\uff23\uff11", "abc1"),
        ("cafe\u0301 CAFÉ ﬁne", "cafe cafe fine"),
        ("Ёлка й", "елка и"),
        ("Đà Nẵng, Øl", "đa nang, øl"),
        ("か\u3099 が ガ", "が が ガ"),
        ("हिन्दी", "हिन्दी"),
        ("한국어", "한국어"),
        ("\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f3f3\U0001f308"),
        ("so\u00adft", "soft"),
    ],
)
def test_case_accents_compatibility_forms_and_invisible_characters_are_folded(written: str, folded: str) -> None:
    assert fold(written) == folded


def test_folding_a_folded_character_changes_nothing() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert [character for character in characters if fold(fold(character)) != fold(character)] == []


@pytest.mark.parametrize(
    ("text", "stored", "terms"),
    [
        ("Don't go, go!", " don t go go ", ["don", "t", "go"]),
        ("東京都 iPhoneは", " 東京都 iphone は ", ["東京", "京都", "都", "iphone", "は"]),
        ("ไทย", " ไทย ", ["ไท", "ทย", "ย"]),
        ("ok\U0001f44d\U0001f3fd", " ok \U0001f44d ", ["ok", "\U0001f44d"]),
        ("हिन्दी में", " हिन्दी में ", ["हिन्दी", "में"]),
        (" \0!?", "", []),
        ("x" * 100, f" {'x' * 64} ", ["x" * 64]),
    ],
)
def test_words_are_terms_and_scripts_without_spaces_give_pairs_of_characters(
    text: str, stored: str, terms: list[str]
) -> None:
    found = searched(text)
    assert (found.text, found.terms) == (stored, terms)


def test_only_the_beginning_of_a_long_text_is_searched() -> None:
    words = searched("".join(f"{number} " for number in range(9_000)))
    assert (len(words.terms), words.text[:5], words.words) == (MAX_TERMS, " 0 1 ", MAX_TERMS)
    run = searched("".join(map(chr, range(0x4E00, 0x4E00 + 3_000))))
    assert (len(run.terms), len(run.text)) == (MAX_TERMS, MAX_TERMS + 2)
    assert len(searched("a " * 9_000).text) == MAX_CHARACTERS + 1
