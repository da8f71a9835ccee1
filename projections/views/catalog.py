"""The views: their names, their versions, their indexes.

conversations  one document per conversation; removed when the conversation is deleted
items          one document per item; removed with its conversation
responses      one document per reply, waiting and running ones included; removed with its conversation
search         one document per item; that of a message has the terms of its text; removed with its conversation
feedback       one document per feedback to an item or a response; removed with its conversation
usage          token and cost totals per tenant, day (UTC), subject, API key, model and partition. Each total is stored once per conversation, and once
               for all conversations together. A deletion does not remove them
context        snapshots in Redis (`context/snapshots.py`)
"""

from typing import Any, Literal

MongoView = Literal["conversations", "items", "responses", "search", "feedback", "usage"]

MONGO_VIEWS: tuple[MongoView, ...] = ("conversations", "items", "responses", "search", "feedback", "usage")
CONVERSATION_VIEWS: tuple[MongoView, ...] = ("conversations", "items", "responses", "search", "feedback")
"""The views whose documents belong to one conversation and are removed with it."""

USAGE: MongoView = "usage"
CONTEXT = "context"
ALL_VIEWS: tuple[str, ...] = (*MONGO_VIEWS, CONTEXT)

VERSIONS: dict[str, int] = {"conversations": 4, "items": 3, "responses": 5, "search": 1, "feedback": 1, "usage": 7}
"""Raise a view's version when the same events give different documents. The projector then rebuilds the view when it starts."""

POSITIONS_COLLECTION = "projections"
"""The collection of view positions: see `view_position.py`."""

FORKS_OF_OWNER = (("tenant", 1), ("owner", 1), ("id", -1))
"""The keys of the index that has only forks, by owner."""

OPENED_BRANCHES = (
    *(("tenant", 1), ("conversation_id", 1), ("parent", 1), ("version", 1), ("parent_branch", 1)),
    *(("retracted_version", 1), ("restored_version", 1), ("copy_of", 1), ("id", 1)),
)
"""The keys of the index that has only the items that open a branch. The index has every field that is needed to count siblings, so MongoDB need not read the documents for this."""

LIST_ORDERS = ("id", "activity")
"""The fields that lists of conversations are ordered by."""

LISTED_BY: dict[tuple[str, ...], dict[str, Any]] = {
    ("status", "archived"): {},
    ("owner", "status", "archived"): {},
    ("shared_with", "status", "archived"): {},
    ("metadata",): {"metadata.0": {"$exists": True}},
    ("title_words",): {"title_words.0": {"$exists": True}},
}
"""The fields that lists of conversations are filtered by. Each entry gives one index for each field of LIST_ORDERS. Its value is the filter of the documents that these indexes have; `{}`: all documents."""


def _names(keys: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(name for name, _ in keys)


INDEXES: dict[str, tuple[tuple[tuple[str, int], ...], ...]] = {
    "conversations": (
        *(
            (("tenant", 1), ("listed", 1), *((field, 1) for field in filtered), (order, 1))
            for filtered in LISTED_BY
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
"""The index of the terms of search. Under each term, the items are ordered by the time they were appended."""

PARTIAL_INDEXES: dict[tuple[tuple[str, int], ...], dict[str, Any]] = {
    FORKS_OF_OWNER: {"forked_from.conversation": {"$exists": True}},
    INDEXES["items"][1]: {"branch": {"$gt": 0}},
    OPENED_BRANCHES: {"parent_branch": {"$exists": True}},
    **{keys: documents for keys in INDEXES["conversations"] if (documents := LISTED_BY.get(_names(keys)[2:-1]))},
}
"""The indexes that have only some documents, each with the filter for these. MongoDB uses such an index only for queries that ask for no other documents.

Most conversations have one branch: their items are in none of these indexes of `items`.
"""
