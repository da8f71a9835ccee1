"""Finds and ranks the matches of a search in the view `search`.

The documents of the query's rarest term are read, newest first. The index does not have the documents of a prefix in
order of time. So a search with only prefixes reads the newest messages first (the window), then older ones in larger
windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from msgspec import Struct

from projections.views.catalog import SEARCH_TERMS
from projections.views.search import ALL, first_order_at
from projections.views.writes import Document
from queries.consistency import Read
from queries.query_context import QueryContext
from queries.search_cursor import SearchCursor
from queries.search_query import SearchQuery
from queries.search_terms import Part, SearchTerms
from queries.search_visible import Visible, find_documents

MAX_RANKED: Final = 2_000
"""How many of the newest matches are ranked together. This limits the time of a search for a common word."""

MAX_COMPARED_RANKED: Final = 200
"""The same limit if texts or filters must be compared. Such a search may read many more documents than it finds."""

_RANKED_BY: Final[Document] = dict.fromkeys(("order", "conversation_id", "text", "words"), 1)
_ESTIMATED_TERMS: Final = 8
_ESTIMATED_DOCUMENTS: Final = 100
_PREFIX_WINDOW: Final = 2_000
"""How many of the newest messages are searched for a prefix first."""

_WINDOW_GROWTH: Final = 8
"""Each window is this many times larger than the window before."""


class Match(Struct, frozen=True):
    """An item that matches. `conversation_id`: the conversation that has the item. `cursor`: the place after this match."""

    item_id: str
    conversation_id: str
    score: float
    cursor: SearchCursor


class Found(Struct, frozen=True):
    """Some matches, best first. `next`: where to continue if there may be more."""

    matches: Sequence[Match] = ()
    next: SearchCursor | None = None


class Matches:
    def __init__(
        self, context: QueryContext, read: Read, query: SearchQuery, terms: SearchTerms, visible: Visible
    ) -> None:
        self._context = context
        self._read = read
        self._query = query
        self._terms = terms
        self._visible = visible.documents
        self._conversations = visible.conversations
        self._driver: Document = {}
        """Selects the documents to read: those with one term, or with one prefix."""
        self._window_size = _PREFIX_WINDOW

    @classmethod
    async def of(
        cls, context: QueryContext, read: Read, query: SearchQuery, terms: SearchTerms, visible: Visible
    ) -> Self:
        matches = cls(context, read, query, terms, visible)
        await matches._choose_documents()
        return matches

    async def after(self, cursor: SearchCursor, count: int) -> Found:
        """At most `count` matches after the cursor, of those that are ranked together. Raises ExecutionTimeout."""
        window = await self._start_of_window(cursor)
        order = self._order(cursor.newest, cursor.oldest or window)
        conditions = self._conditions()
        where: Document = {**self._visible, **self._driver, "retracted": False, **order, **conditions}
        max_ranked = MAX_COMPARED_RANKED if conditions else MAX_RANKED
        score: Document | str = self._score()
        # Without the projection, a search for a common word takes a tenth longer, because documents with all terms are large.
        stages: list[Document] = [{"$sort": {"order": -1}}, {"$limit": max_ranked}, {"$project": _RANKED_BY}]
        if cursor.score is not None:
            same = {"score": cursor.score, "order": {"$lt": cursor.order}}
            following = {"$or": [{"score": {"$lt": cursor.score}}, same]}
            stages += [{"$project": {"order": 1, "conversation_id": 1, "score": score}}, {"$match": following}]
            score = "$score"
        block = {
            "_id": None,
            "newest": {"$max": "$order"},
            "oldest": {"$min": "$order"},
            "count": {"$sum": 1},
            "best": {"$maxN": {"n": count, "input": [score, "$order", "$_id", "$conversation_id"]}},
        }
        stages += [{"$group": block}, {"$project": {"_id": 0}}]
        blocks = await self._documents(where, stages)
        return _found(blocks, cursor, count, window=window, max_ranked=max_ranked)

    def _order(self, newest: int | None = None, oldest: int = 0) -> Document:
        query = self._query
        lowest = [oldest, 0 if query.since is None else first_order_at(query.since)]
        highest = [] if query.until is None else [first_order_at(query.until) - 1]
        highest += [] if newest is None else [newest]
        return {"order": {"$gte": max(lowest), **({"$lte": min(highest)} if highest else {})}}

    def _conditions(self) -> Document:
        query = self._query
        fields = {
            "role": query.role,
            "author": query.author,
            "model": query.model,
            "conversation_id": None if self._conversations is None else {"$in": [*self._conversations]},
        }
        named = {name: value for name, value in fields.items() if value is not None}
        implied = self._driver.get("terms")
        wanted = [part for part in self._terms.wanted if not (part.is_one_term and part.terms[0] == implied)]
        conditions = [{"$gte": [_place_of(part), 0]} for part in wanted]
        conditions += [{"$lt": [_place_of(part), 0]} for part in self._terms.unwanted]
        return {**named, "$expr": {"$and": conditions}} if conditions else named

    def _score(self) -> Document:
        """Each part adds a number between 0 and 1: higher for more occurrences, lower for a longer text."""
        scores = []
        for part in self._terms.wanted:
            # `more`: one more than how often the text has the part.
            more = {"$size": {"$split": ["$text", {"$literal": part.text}]}}
            length = {"$multiply": ["$words", 0.02]}
            score = {"$divide": [{"$subtract": ["$$more", 1]}, {"$add": ["$$more", length, -0.5]}]}
            scores.append({"$let": {"vars": {"more": more}, "in": score}})
        return {"$add": scores}

    async def _choose_documents(self) -> None:
        """Of the longest terms, chooses the one that is rarest among the newest documents.

        Without terms: the longest prefix.
        """
        wanted = {term for part in self._terms.wanted for term in part.terms}
        terms = sorted(wanted, key=lambda term: (-len(term), term))[:_ESTIMATED_TERMS]
        if not terms:
            longest = max(self._terms.wanted, key=lambda part: len(part.text))
            self._driver = {"terms": {"$elemMatch": longest.prefix_range}}
            return
        self._driver = {"terms": terms[0] if len(terms) == 1 else await self._rarest(terms)}

    async def _start_of_window(self, cursor: SearchCursor) -> int:
        """The lowest `order` of the window at the cursor; 0 if no window is needed."""
        has_time_order = isinstance(self._driver["terms"], str)
        if has_time_order or cursor.oldest is not None:
            return 0
        if cursor.newest is not None and await self._has_few_documents(cursor.newest):
            return 0
        stages: list[Document] = [
            {"$sort": {"order": -1}},
            {"$skip": self._window_size},
            {"$limit": 1},
            {"$project": {"_id": 0, "order": 1}},
        ]
        self._window_size *= _WINDOW_GROWTH
        found = await self._documents({**self._visible, "terms": ALL, **self._order(cursor.newest)}, stages)
        return int(found[0]["order"]) if found else 0

    async def _has_few_documents(self, newest: int) -> bool:
        stages: list[Document] = [{"$limit": MAX_RANKED}, {"$count": "count"}]
        where = {**self._visible, **self._driver, **self._order(newest)}
        found = await self._documents(where, stages)
        return not found or found[0]["count"] < MAX_RANKED

    async def _rarest(self, terms: Sequence[str]) -> str:
        """A term with fewer than _ESTIMATED_DOCUMENTS documents. If there is none: the term whose newest documents go
        back furthest.
        """
        selections: list[tuple[Document, list[Document]]] = [
            (
                {**self._visible, "terms": term, **self._order()},
                [
                    {"$sort": {"order": -1}},
                    {"$skip": _ESTIMATED_DOCUMENTS - 1},
                    {"$limit": 1},
                    {"$project": {"_id": 0, "term": {"$literal": term}, "order": 1}},
                ],
            )
            for term in terms
        ]
        where, stages = selections[0]
        for where_other, of_other in selections[1:]:
            pipeline = [{"$match": {"tenant": self._read.tenant, **where_other}}, *of_other]
            stages = [*stages, {"$unionWith": {"coll": self._read.collections["search"], "pipeline": pipeline}}]
        order_of = {row["term"]: row["order"] for row in await self._documents(where, stages)}
        return min(terms, key=lambda term: order_of.get(term, 0))

    async def _documents(self, where: Document, stages: Sequence[Document]) -> list[Document]:
        """Does not check the views' positions, because the last read of a search checks them."""
        has_one_plan = "$or" not in where and "conversation_id" not in where
        collection = self._read.collections["search"]
        return await find_documents(self._context, collection, where, stages, SEARCH_TERMS if has_one_plan else None)


def _place_of(part: Part) -> Document:
    """-1 if the text does not have the part."""
    return {"$indexOfBytes": ["$text", {"$literal": part.text}]}


def _found(
    blocks: Sequence[Mapping[str, Any]], cursor: SearchCursor, count: int, *, window: int, max_ranked: int
) -> Found:
    """`cursor`: where the matches begin. `window`: as `_start_of_window` returns it."""
    if not blocks:
        return Found(next=_next_block(cursor.oldest or window))
    [block] = blocks
    is_full = block["count"] == max_ranked
    newest = int(block["newest"]) if cursor.newest is None else cursor.newest
    oldest = cursor.oldest
    if oldest is None:
        oldest = int(block["oldest"]) if is_full or not window else window
    matches = [
        Match(
            item_id=key.rpartition(":")[2],
            conversation_id=conversation_id,
            score=score,
            cursor=SearchCursor(newest, oldest, score, int(order)),
        )
        for score, order, key, conversation_id in block["best"]
    ]
    if len(matches) == count:
        return Found(matches, matches[-1].cursor)
    is_last = cursor.oldest is None and not is_full and not window
    return Found(matches, None if is_last else _next_block(oldest))


def _next_block(oldest: int) -> SearchCursor | None:
    return SearchCursor(newest=oldest - 1) if oldest else None
