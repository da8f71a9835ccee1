"""GET /v1/conversations/{id}, and what a reader sees of a conversation."""

from fastapi import APIRouter
from starlette.responses import Response

from domain.errors import ConversationNotFound
from infrastructure.http import shapes
from infrastructure.http.headers import etag
from infrastructure.ids import minted_seconds
from projections.views.conversations import shared_with_subject
from projections.views.writes import Document
from queries.list_words import FIELDS as WORDS_FIELDS
from queries.list_words import Words, words_of
from queries.not_modified import NO_STORE
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route

router = APIRouter(tags=["conversations"])

FIELDS = (
    *("id", "metadata", "status", "title", "title_by", "instructions", "archived", "version", "forked_from"),
    *("owner", "updated_at", "running", *WORDS_FIELDS),
)


@query_route(
    router,
    "/v1/conversations/{conversation_id}",
    answer=shapes.ListedConversation,
    answer_headers=CONVERSATION_HEADERS,
)
async def get_conversation(context: QueryContext, conversation_id: str) -> Response:
    """The Conversation; its version is the `ETag`."""
    await context.check_modified(conversation_id)
    read = await context.read_conversation(conversation_id, "conversations", "items")
    document = await context.find_document(read, "conversations", conversation_id, *FIELDS)
    if document is None:  # deleted after the read started
        raise ConversationNotFound(conversation_id)
    words = (await words_of(context, read, [document]))[conversation_id]
    headers = {**read.headers, "etag": etag(document["version"]), **(NO_STORE if words.has_copies else {})}
    return shapes.json_response(conversation_shape(document, words), headers=headers)


def conversation_shape(document: Document, words: Words) -> shapes.ListedConversation:
    """Documents of older view versions lack some fields."""
    running, fork = document.get("running", {}), document.get("forked_from")
    return shapes.ListedConversation(
        id=document["id"],
        created_at=minted_seconds(document["id"]),
        metadata=dict(document["metadata"]),
        status=document["status"],
        title=document["title"],
        title_by=document.get("title_by"),
        instructions=document["instructions"],
        archived=document.get("archived", False),
        version=document["version"],
        forked_from=shapes.ForkedFrom(**fork) if fork else None,
        owner=document["owner"],
        updated_at=document["updated_at"] // 1_000_000,
        item_count=document["items"],
        first_text=words.first,
        last_text=words.last,
        running_response=max(running, key=running.__getitem__, default=None),
    )


def visible_to(subject: str, *, with_shares: bool) -> Document:
    shares = shared_with_subject(subject) if with_shares else []
    return {"$or": [{"owner": subject}, {"shared_with": {"$in": shares}}]}
