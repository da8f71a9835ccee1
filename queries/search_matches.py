"""Finds and ranks the matches of a search in the view `search`.

The documents of one term are read, newest first: of the query's rarest term, as far as a short look at the index tells. The parts of the query
are compared with each document's text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from msgspec import Struct

from projections.views.conversations import shared_with_subject
from projections.views.search import ALL, first_order_at
from projections.views.writes import Document
from queries.consistency import Read
from queries.log_access import PostgresUnavailable
from queries.query_context import QueryContext
from queries.search_cursor import SearchCursor
from queries.search_query import SearchQuery
from queries.search_terms import Part, SearchTerms

MAX_RANKED: Final = 2_000
"""How many matches are ranked together: the newest ones. So a common word takes no longer than this many matches."""

MAX_SECONDS: Final = 2.0
"""The longest time that MongoDB may spend on a step of a search."""

MAX_SHARED: Final = 1_000
"""A search goes through at most this many conversations that are shared with the caller: the newest ones."""

_MAX_OWNERS: Final = 200
"""MongoDB reads the documents of so many owners in order of time. For more it sorts all documents of a term."""

_ESTIMATED_TERMS: Final = 8
_ESTIMATED_DOCUMENTS: Final = 300
_PREFIX_WINDOW: Final = 10_000
"""The index does not have the matches of a prefix in order of time. So a search for prefixes alone first ranks the matches among this many of
the newest messages, and then all older ones. If many words begin like this, the first page is full before that. If few do, that is fast too."""


class Match(Struct, frozen=True):
    """A document that matches. `cursor`: the place after it."""

    item_id: str
    owner: str
    score: float
    cursor: SearchCursor


class Found(Struct, frozen=True):
    """Matches, best first. `next`: where to go on if there may be more."""

    matches: Sequence[Match] = ()
    next: SearchCursor | None = None


class Matches:
    """The matches of one search."""

    def __init__(self, context: QueryContext, read: Read, query: SearchQuery, terms: SearchTerms) -> None:
        self._context = context
        self._read = read
        self._query = query
        self._terms = terms
        self._visible: Document = {}
        self._driver: Document | None = None

    @classmethod
    async def of(cls, context: QueryContext, read: Read, query: SearchQuery, terms: SearchTerms) -> Self:
        """Finds out which documents the caller's search has to read. Raises ConversationNotFound if the query's conversation is not visible."""
        matches = cls(context, read, query, terms)
        matches._visible = await _visible_documents(context, read, query.conversation)
        matches._driver = await matches._rarest()
        return matches

    async def after(self, cursor: SearchCursor, count: int) -> Found:
        """The next `count` matches, or those that are left of a block. Raises ExecutionTimeout."""
        if self._driver is None:
            return Found()
        is_windowed = cursor == SearchCursor() and isinstance(self._driver["terms"], dict)
        window = await self._start_of_window() if is_windowed else 0
        where: Document = {**self._visible, **self._driver, "retracted": False, **self._filters(cursor, window)}
        following: list[Document] = []
        if cursor.score is not None:
            same = {"score": cursor.score, "order": {"$lt": cursor.order}}
            following = [{"$match": {"$or": [{"score": {"$lt": cursor.score}}, same]}}]
        match = {"key": "$_id", "owner": "$owner", "order": "$order", "score": "$score"}
        stages: list[Document] = [
            {"$sort": {"order": -1}},
            {"$limit": MAX_RANKED},
            {"$project": {"owner": 1, "order": 1, "score": self._score()}},
            *following,
            {"$sort": {"score": -1, "order": -1}},
            {
                "$group": {
                    "_id": None,
                    "newest": {"$max": "$order"},
                    "oldest": {"$min": "$order"},
                    "count": {"$sum": 1},
                    "best": {"$firstN": {"n": count, "input": match}},
                }
            },
            {"$project": {"_id": 0}},
        ]
        blocks = await self._context.aggregate(self._read, "search", where, stages, MAX_SECONDS)
        return _found(blocks, cursor, count, window)

    def _filters(self, cursor: SearchCursor, window: int) -> Document:
        query = self._query
        lowest = [0 if query.since is None else first_order_at(query.since), cursor.oldest or window]
        highest = [] if query.until is None else [first_order_at(query.until) - 1]
        highest += [] if cursor.newest is None else [cursor.newest]
        order = {"$gte": max(lowest), **({"$lte": min(highest)} if highest else {})}
        fields = {"role": query.role, "author": query.author, "model": query.model}
        return {
            "order": order,
            **{name: value for name, value in fields.items() if value is not None},
            **({} if query.conversation is None else {"conversation_id": query.conversation}),
            **self._comparisons(),
        }

    def _comparisons(self) -> Document:
        """Compares those parts that the driver does not imply."""
        implied = (self._driver or {}).get("terms")
        wanted = [part for part in self._terms.wanted if not (part.is_one_term and part.terms[0] == implied)]
        conditions = [{"$gte": [_place_of(part), 0]} for part in wanted]
        conditions += [{"$lt": [_place_of(part), 0]} for part in self._terms.unwanted]
        return {"$expr": {"$and": conditions}} if conditions else {}

    def _score(self) -> Document:
        """For each part between 0 and 1: more, the more often the text has it, and less, the longer the text is."""
        scores = []
        for part in self._terms.wanted:
            more = {
                "$size": {"$split": ["$text", {"$literal": part.text}]}
            }  # one more than how often the text has the part
            scores.append(
                {"$divide": [{"$subtract": [more, 1]}, {"$add": [more, {"$multiply": ["$words", 0.02]}, -0.5]}]}
            )
        return {"$add": scores}

    async def _rarest(self) -> Document | None:
        """Selects the documents to read: of the term that is rarest among the newest documents. None if a term has no document."""
        exact = sorted(
            {term for part in self._terms.wanted for term in part.terms}, key=lambda term: (-len(term), term)
        )
        drivers: list[Document] = [{"terms": term} for term in exact[:_ESTIMATED_TERMS]]
        if not drivers:
            longest = max(self._terms.wanted, key=lambda part: len(part.text))
            return {"terms": {"$elemMatch": longest.prefix_range}}
        if len(drivers) == 1:
            return drivers[0]
        estimates = await self._estimates(drivers)
        return drivers[min(estimates, key=estimates.__getitem__)] if len(estimates) == len(drivers) else None

    async def _start_of_window(self) -> int:
        """The `order` of the message that is _PREFIX_WINDOW messages old; 0 if there are fewer."""
        stages: list[Document] = [
            {"$sort": {"order": -1}},
            {"$skip": _PREFIX_WINDOW},
            {"$limit": 1},
            {"$project": {"_id": 0, "order": 1}},
        ]
        where = {**self._visible, "terms": ALL}
        found = await _documents(self._context, self._read.collections["search"], where, stages)
        return int(found[0]["order"]) if found else 0

    async def _estimates(self, drivers: Sequence[Document]) -> Mapping[int, tuple[int, int]]:
        """For each driver that selects documents: how many, at most _ESTIMATED_DOCUMENTS, and the lowest `order` of these newest ones.

        The lower they are, the rarer is the term.
        """
        pipelines: list[list[Document]] = [
            [
                {"$sort": {"order": -1}},
                {"$limit": _ESTIMATED_DOCUMENTS},
                {"$group": {"_id": None, "count": {"$sum": 1}, "oldest": {"$min": "$order"}}},
                {"$project": {"_id": 0, "number": {"$literal": number}, "count": 1, "oldest": 1}},
            ]
            for number in range(len(drivers))
        ]
        first, *others = drivers
        stages = pipelines[0]
        for driver, pipeline in zip(others, pipelines[1:], strict=True):
            where = {"tenant": self._read.tenant, **self._visible, **driver}
            selected = {"coll": self._read.collections["search"], "pipeline": [{"$match": where}, *pipeline]}
            stages = [*stages, {"$unionWith": selected}]
        rows = await _documents(self._context, self._read.collections["search"], {**self._visible, **first}, stages)
        return {row["number"]: (row["count"], row["oldest"]) for row in rows}


def _place_of(part: Part) -> Document:
    """Where the document's text has the part; -1 if nowhere."""
    return {"$indexOfBytes": ["$text", {"$literal": part.text}]}


def _found(blocks: Sequence[Mapping[str, Any]], cursor: SearchCursor, count: int, window: int) -> Found:
    """The matches in the answer. `cursor`: where they begin. `window`: the lowest `order` that was looked at, if not all were."""
    if not blocks:
        return Found(next=_next_block(cursor.oldest or window))
    [block] = blocks
    is_full = block["count"] == MAX_RANKED
    newest = int(block["newest"]) if cursor.newest is None else cursor.newest
    oldest = cursor.oldest
    if oldest is None:
        oldest = int(block["oldest"]) if is_full or not window else window
    matches = [
        Match(
            item_id=each["key"].rpartition(":")[2],
            owner=each["owner"],
            score=each["score"],
            cursor=SearchCursor(newest, oldest, each["score"], int(each["order"])),
        )
        for each in block["best"]
    ]
    if len(matches) == count:
        return Found(matches, matches[-1].cursor)
    is_last = cursor.oldest is None and not is_full and not window
    return Found(matches, None if is_last else _next_block(oldest))


def _next_block(oldest: int) -> SearchCursor | None:
    return SearchCursor(newest=oldest - 1) if oldest else None


async def _visible_documents(context: QueryContext, read: Read, conversation_id: str | None) -> Document:
    """Selects the documents of conversations that the caller may see. Some may not be visible any more: each hit is checked."""
    principal = context.principal
    if conversation_id is not None:
        try:
            head = await context.dependencies.log.existing_head(conversation_id)
        except PostgresUnavailable:
            if read.verified:
                raise
        else:
            return {"owner": head.owner}
    if principal.may("admin"):
        owners = await _owners(context, read)
        return {"owner": {"$in": owners}} if len(owners) <= _MAX_OWNERS else {}
    own: Document = {"owner": principal.subject}
    shared = await _shared_conversations(context) if read.verified else []
    if not shared:
        return own
    of_others = {
        "owner": {"$in": sorted({document["owner"] for document in shared})},
        "conversation_id": {"$in": [document["id"] for document in shared]},
    }
    return {"$or": [own, of_others]}


async def _owners(context: QueryContext, read: Read) -> list[str]:
    """The owners of the tenant's conversations, at most one more than _MAX_OWNERS."""
    stages: list[Document] = [
        {"$sort": {"owner": 1}},
        {"$group": {"_id": "$owner"}},
        {"$limit": _MAX_OWNERS + 1},
        {"$project": {"_id": 0, "owner": "$_id"}},
    ]
    return [row["owner"] for row in await _documents(context, read.collections["search"], {}, stages)]


async def _shared_conversations(context: QueryContext) -> list[Document]:
    """The id and the owner of the newest conversations that are shared with the caller."""
    subject = context.principal.subject
    where: Document = {"shared_with": {"$in": shared_with_subject(subject)}, "owner": {"$ne": subject}}
    stages: list[Document] = [
        {"$sort": {"id": -1}},
        {"$limit": MAX_SHARED},
        {"$project": {"_id": 0, "id": 1, "owner": 1}},
    ]
    collection = context.dependencies.consistency.positions.last_collection("conversations")
    return await _documents(context, collection, where, stages)


async def _documents(
    context: QueryContext, collection: str, where: Document, stages: Sequence[Document]
) -> list[Document]:
    """The documents that result from these stages. They only help to find matches, so the views' positions are not checked after them."""
    documents = await context.dependencies.views.aggregate(collection, where, stages, max_seconds=MAX_SECONDS)
    return await documents.to_list()
