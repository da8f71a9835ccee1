"""Names, versions and indexes of the views.

`context` is snapshots in Redis (`context/snapshots.py`). The others are MongoDB collections.
"""

from typing import Any, Literal

MongoView = Literal["conversations", "items", "responses", "search", "feedback", "usage"]

MONGO_VIEWS: tuple[MongoView, ...] = ("conversations", "items", "responses", "search", "feedback", "usage")
CONVERSATION_VIEWS: tuple[MongoView, ...] = ("conversations", "items", "responses", "search", "feedback")
USAGE: MongoView = "usage"
CONTEXT = "context"
ALL_VIEWS: tuple[str, ...] = (*MONGO_VIEWS, CONTEXT)

VERSIONS: dict[str, int] = {"conversations": 5, "items": 3, "responses": 5, "search": 1, "feedback": 1, "usage": 7}
"""Raise a view's version when the same events give different documents. A projector that starts then rebuilds the view."""

POSITIONS_COLLECTION = "projections"
FORKS_OF_OWNER = (("tenant", 1), ("owner", 1), ("id", -1))
"""The index that has only forks, by owner."""

OPENED_BRANCHES = (
    *(("tenant", 1), ("conversation_id", 1), ("parent", 1), ("version", 1), ("parent_branch", 1)),
    *(("retracted_version", 1), ("restored_version", 1), ("copy_of", 1), ("id", 1)),
)
"""The index that has only the items that open a branch. It has all fields for counting siblings, so MongoDB need not
read the documents.
"""

LIST_ORDERS = ("id", "activity")
LIST_TERMS = "lists.terms"
"""One indexed field for all filters of lists. When an event changes `activity`, MongoDB makes the keys of every index
of the collection again, so each further index costs every append.
"""


INDEXES: dict[str, tuple[tuple[tuple[str, int], ...], ...]] = {
    "conversations": (
        *(
            (("tenant", 1), ("listed", 1), (LIST_TERMS, 1), ("status", 1), ("archived", 1), (order, 1))
            for order in LIST_ORDERS
        ),
        FORKS_OF_OWNER,
    ),
    "items": (
        (("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)),
        (("tenant", 1), ("conversation_id", 1), ("depth", 1), ("branch", 1)),
        OPENED_BRANCHES,
    ),
    "responses": (
        (("tenant", 1), ("conversation_id", 1), ("version", 1)),
        (("tenant", 1), ("chat", 1), ("status", 1), ("id", 1)),
        (("tenant", 1), ("chat", 1), ("subject", 1), ("status", 1), ("id", 1)),
        (("tenant", 1), ("chat", 1), ("model", 1), ("status", 1), ("id", 1)),
        (("tenant", 1), ("chat", 1), ("metadata", 1), ("status", 1), ("id", 1)),
    ),
    "search": (
        (("tenant", 1), ("conversation_id", 1)),
        (("tenant", 1), ("owner", 1), ("terms", 1), ("order", 1)),
    ),
    "feedback": (
        (("tenant", 1), ("id", 1)),
        (("tenant", 1), ("owner", 1), ("id", 1)),
        (("tenant", 1), ("conversation_id", 1), ("id", 1)),
    ),
    "usage": (
        (("tenant", 1), ("conversation", 1), ("date", 1), ("model", 1)),
        (("tenant", 1), ("conversation", 1), ("subject", 1), ("date", 1), ("model", 1)),
    ),
}

SEARCH_TERMS = INDEXES["search"][1]
"""Under each term, the items are ordered by the time they were appended."""

PARTIAL_INDEXES: dict[tuple[tuple[str, int], ...], dict[str, Any]] = {
    FORKS_OF_OWNER: {"forked_from.conversation": {"$exists": True}},
    INDEXES["items"][1]: {"branch": {"$gt": 0}},
    OPENED_BRANCHES: {"parent_branch": {"$exists": True}},
}
"""The indexes that have only some documents. MongoDB uses such an index only for queries whose filter excludes all
other documents.
"""
