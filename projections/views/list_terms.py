"""The terms that lists of conversations are filtered by.

A document has these terms in `lists`, an array of four objects. The objects have the `terms` of the owner, the shares,
the metadata and the title. So an event can replace the terms of one kind alone, and one index has the terms of all
kinds. Every object also has the term ALL.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from projections.views.search_text import searched

FIRST_VERSION_WITH_TERMS: Final = 5
"""The first version of the view that has `lists`. While an older version is shown, lists are slower."""

ALL: Final = ""
SHARE_TERMS: Final = "lists.1.terms"
METADATA_TERMS: Final = "lists.2.terms"
TITLE_TERMS: Final = "lists.3.terms"


def list_terms(owner: str, metadata: Mapping[str, str], title: str | None) -> list[dict[str, Any]]:
    """The terms of a conversation without shares."""
    kinds = ([ALL, owner_term(owner)], share_terms(()), metadata_terms(metadata), title_terms(title))
    return [{"terms": terms} for terms in kinds]


def share_terms(shares: Sequence[str]) -> list[str]:
    """`shares`: as in `shared_with`."""
    return [ALL, *map(share_term, shares)]


def metadata_terms(metadata: Mapping[str, str]) -> list[str]:
    return [ALL, *(metadata_term(name, value) for name, value in metadata.items())]


def title_terms(title: str | None) -> list[str]:
    return [ALL, *map(title_term, searched(title).terms if title else ())]


def owner_term(owner: str) -> str:
    return f"owner:{owner}"


def share_term(share: str) -> str:
    return f"share:{share}"


def metadata_term(name: str, value: str) -> str:
    return f"metadata:{msgspec.json.encode([name, value]).decode()}"


def title_term(word: str) -> str:
    return f"title:{word}"
