"""GET /v1/conversations/{id}/feedback and GET /v1/feedback, with counts.

A comment on a deleted item or response is null. While Postgres is unavailable, all comments are null.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from context.deleted_content import deleted_items
from context.forks import lineage
from infrastructure.http import shapes
from infrastructure.http.feedback_shapes import Feedback, FeedbackCounts, FeedbackList
from infrastructure.http.path_ids import check_id
from infrastructure.ids import first_uuid_at, minted_seconds
from projections.views.writes import Document
from queries.consistency import Read
from queries.paging import PageQuery, fetch_page
from queries.query_context import QueryContext
from queries.query_route import query_route
from queries.time_range import MAX_SECONDS

router = APIRouter(tags=["feedback"])

MAX_COUNTED_LABELS = 100

_FIELDS = (
    "id",
    "conversation_id",
    "item_id",
    "response_id",
    "rating",
    "labels",
    "comment",
    "by",
    "copy_of",
    "inherited",
)


class FeedbackQuery(PageQuery):
    rating: Literal["1", "-1"] | None = Field(None, description="Only this rating.")
    label: str | None = Field(None, max_length=64, description="Only feedback with this label.")
    since: int | None = Field(
        None, ge=0, le=MAX_SECONDS, description="Given at this time or later (seconds since 1970, UTC)."
    )
    until: int | None = Field(
        None, ge=0, le=MAX_SECONDS, description="Given before this time (seconds since 1970, UTC)."
    )


@query_route(router, "/v1/conversations/{conversation_id}/feedback", FeedbackQuery, answer=FeedbackList)
async def list_feedback_of_conversation(context: QueryContext, conversation_id: str, query: FeedbackQuery) -> Response:
    """A page of the feedback that was given in the conversation, newest first, with counts. Everybody who may read the conversation sees the feedback of all people."""
    read = await context.read_conversation(conversation_id, "feedback")
    where: Document = {"conversation_id": conversation_id}
    page = await _page(context, read, where, query)
    await context.dependencies.consistency.check_not_deleted(read)
    return page


@query_route(router, "/v1/feedback", FeedbackQuery, answer=FeedbackList)
async def list_feedback(context: QueryContext, query: FeedbackQuery) -> Response:
    """A page of the feedback in the caller's own conversations, newest first, with counts. An admin gets the feedback of the whole tenant."""
    read = await context.read_tenant("feedback")
    where: Document = {} if context.principal.may("admin") else {"owner": context.principal.subject}
    return await _page(context, read, where, query)


async def _page(context: QueryContext, read: Read, where: Document, query: FeedbackQuery) -> Response:
    for param in ("after", "before"):
        if (cursor := getattr(query, param)) is not None:
            check_id(cursor, "feedback", param)
    where = {**where, "withdrawn": False, **_filter(query)}
    documents: dict[str, Document] = {}

    def entry(document: Document) -> bytes:
        documents[document["id"]] = document
        return shapes.encode(_shape(document, comment=document["comment"]))

    page = await fetch_page(
        context,
        read,
        "feedback",
        {"$and": [where]},  # the page adds its own bounds of `id`
        field="id",
        page=query,
        after=query.after,
        before=query.before,
        fields=_FIELDS,
        entry_of=entry,
    )
    on_page = {feedback_id: documents[feedback_id] for feedback_id in page.ids if documents[feedback_id]["comment"]}
    without_comment = await _of_deleted(context, on_page) if read.verified else frozenset(on_page)
    page.entries = [
        shapes.encode(_shape(documents[feedback_id], comment=None)) if feedback_id in without_comment else text
        for feedback_id, text in zip(page.ids, page.entries, strict=True)
    ]
    counts = await _counts(context, read, where)
    body = page.body(is_backwards=query.is_backwards)[:-1] + b',"counts":' + msgspec.json.encode(counts) + b"}"
    headers = {
        name: value for name, value in read.headers.items() if name != "etag"
    }  # a deletion in a fork's origin changes the answer, but not the version
    return shapes.json_response(body, headers=headers)


def _filter(query: FeedbackQuery) -> Document:
    where: Document = {}
    if query.rating is not None:
        where["rating"] = int(query.rating)
    if query.label is not None:
        where["labels"] = query.label
    bounds = {
        operator: f"feedback_{first_uuid_at(seconds).hex}"
        for operator, seconds in (("$gte", query.since), ("$lt", query.until))
        if seconds is not None
    }
    return {**where, "id": bounds} if bounds else where


def _shape(document: Document, *, comment: str | None) -> Feedback:
    return Feedback(
        id=document["id"],
        conversation=document["conversation_id"],
        item=document["item_id"],
        response=document["response_id"],
        rating=document["rating"],
        labels=document["labels"],
        comment=comment,
        by=document["by"],
        created_at=minted_seconds(document["id"]),
    )


async def _of_deleted(context: QueryContext, documents: Mapping[str, Document]) -> frozenset[str]:
    log = context.dependencies.log
    targets = {document["item_id"] or document["response_id"]: document["copy_of"] for document in documents.values()}
    deleted = {(target, None) for target in await deleted_items(log, targets)}
    for conversation_id in {document["conversation_id"] for document in documents.values() if document["inherited"]}:
        inherited = {
            document["item_id"]: document["copy_of"]
            for document in documents.values()
            if document["conversation_id"] == conversation_id and document["inherited"]
        }
        found = await deleted_items(log, inherited, await lineage(log, conversation_id))
        deleted |= {(target, conversation_id) for target in found}
    return frozenset(
        feedback_id
        for feedback_id, document in documents.items()
        if not deleted.isdisjoint(
            (document["item_id"] or document["response_id"], each) for each in (None, document["conversation_id"])
        )
    )


async def _counts(context: QueryContext, read: Read, where: Document) -> FeedbackCounts:
    """Only the MAX_COUNTED_LABELS most frequent labels are counted."""
    by_rating: list[Document] = [
        {"$group": {"_id": "$rating", "count": {"$sum": 1}}},
        {"$project": {"_id": 0, "rating": "$_id", "count": 1}},
    ]
    by_label: list[Document] = [
        {"$unwind": "$labels"},
        {"$group": {"_id": "$labels", "count": {"$sum": 1}}},
        {"$sort": {"count": -1, "_id": 1}},
        {"$limit": MAX_COUNTED_LABELS},
        {"$project": {"_id": 0, "label": "$_id", "count": 1}},
    ]
    ratings = {row["rating"]: row["count"] for row in await context.aggregate(read, "feedback", where, by_rating)}
    labels = await context.aggregate(read, "feedback", where, by_label)
    return FeedbackCounts(
        positive=ratings.get(1, 0),
        negative=ratings.get(-1, 0),
        labels={row["label"]: row["count"] for row in labels},
    )
