"""GET /v1/chat/completions and …/{id}: stored chat completions, made from Responses."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from msgspec import Struct
from pydantic import Field, ValidationInfo, field_validator
from starlette.responses import Response

from domain.errors import CompletionNotFound, ResponseNotFound
from infrastructure.http import shapes
from infrastructure.http.path_ids import check_reply_id
from infrastructure.ids import completion_id
from projections.views.writes import Document
from queries.consistency import Read
from queries.conversations import visible_to
from queries.log_access import PostgresUnavailable
from queries.metadata_filter import is_metadata_parameter, metadata_filter, metadata_parameter, with_metadata
from queries.paging import CursorParam, PageQuery, unknown_cursor
from queries.query_context import QueryContext
from queries.query_route import CONVERSATION_HEADERS, query_route
from queries.response_pages import Entry, Selected, response_page
from queries.responses import output_of, read_response, response_json
from replies.chat_completion import chat_completion
from replies.chat_shape import ChatCompletion

router = APIRouter(tags=["chat"])

ANSWERED = ("completed", "incomplete")


class ChatCompletionList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """A page of chat completions."""

    data: list[ChatCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CompletionsQuery(PageQuery):
    """The page and the filters. By default the oldest comes first, as in the OpenAI API."""

    order: Literal["asc", "desc"] = Field("asc", description="`asc`: oldest first.")
    model: str | None = Field(None, description="Only chat completions whose `model` has this value.")

    @field_validator("after", "before")
    @classmethod
    def _is_id(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        return None if cursor is None else check_reply_id(cursor, str(info.field_name))

    @classmethod
    def serves(cls, name: str) -> bool:
        return super().serves(name) or is_metadata_parameter(name)


@query_route(
    router,
    "/v1/chat/completions",
    CompletionsQuery,
    parameters=(metadata_parameter("chat completions"),),
    answer=ChatCompletionList,
)
async def list_completions(context: QueryContext, query: CompletionsQuery) -> Response:
    """A page of the chat completions that have an answer, oldest first. A caller gets those that they requested themselves, in
    conversations that they may read. An admin gets those of the whole tenant.

    Filters: `model`, and any number of `metadata[key]=value`.
    """
    metadata = metadata_filter(context.request.query_params)
    read = await context.read_tenant("responses", "items", "conversations")
    await _check_cursor(context, "after", query.after)
    await _check_cursor(context, "before", query.before)
    where: Document = {"chat": True, "status": {"$in": ANSWERED}, **with_metadata(metadata)}
    if query.model is not None:
        where["model"] = query.model
    page = await response_page(context, read, _selected(context, read, query, where))
    return shapes.json_response(page.body(is_backwards=query.is_backwards), headers=page.headers(read))


@query_route(router, "/v1/chat/completions/{completion_id}", answer=ChatCompletion, answer_headers=CONVERSATION_HEADERS)
async def get_completion(context: QueryContext, response_id: str) -> Response:
    """The chat completion. As long as it has no answer, it has no choices."""
    try:
        read, document = await read_response(context, response_id)
        if not document.get("chat"):
            raise CompletionNotFound(completion_id(response_id))
        output = await output_of(context, read, document)
    except ResponseNotFound as error:
        raise CompletionNotFound(completion_id(response_id)) from error
    return shapes.json_response(_completion(document, output), headers=read.headers)


def _selected(context: QueryContext, read: Read, query: CompletionsQuery, where: Document) -> Selected:
    """The order of ids is the order of the requests."""
    after_operator, before_operator = ("$gt", "$lt") if query.ascending else ("$lt", "$gt")
    bounds: Document = {}
    if query.after is not None:
        bounds[after_operator] = query.after
    if query.before is not None:
        bounds[before_operator] = query.before
    stages: list[Document] = [
        {"$sort": {"id": 1 if query.ascending != query.is_backwards else -1}},
        {"$project": {"_id": 0, "input": 0}},
    ]
    if not context.principal.may("admin"):
        where = {**where, "subject": context.principal.subject}
        stages += _still_visible(context, read)
    return Selected(
        where={**where, "id": bounds} if bounds else where,
        stages=[*stages, {"$limit": query.limit + 1}],
        limit=query.limit,
        with_input=False,
        entry_of=lambda document, output, _: Entry(
            completion_id(document["id"]), msgspec.json.encode(_completion(document, output))
        ),
    )


def _still_visible(context: QueryContext, read: Read) -> list[Document]:
    """Keeps replies in conversations that the caller may still read. While Postgres is unavailable, keeps only
    replies in the caller's own conversations.
    """
    key = {"$concat": [{"$literal": f"{context.principal.tenant}:"}, "$conversation_id"]}
    may_read = visible_to(context.principal.subject, with_shares=read.verified)
    return [
        {"$set": {"conversation_key": key}},
        {
            "$lookup": {
                "from": read.collections["conversations"],
                "localField": "conversation_key",
                "foreignField": "_id",
                "pipeline": [{"$match": may_read}, {"$project": {"_id": 1}}],
                "as": "conversation",
            }
        },
        {"$match": {"conversation": {"$ne": []}}},
        {"$unset": ["conversation", "conversation_key"]},
    ]


async def _check_cursor(context: QueryContext, param: CursorParam, cursor: str | None) -> None:
    """Raises ApiError (400) if the caller may not see the reply's conversation. A deleted reply or conversation is accepted.

    While Postgres is unavailable, any id is accepted.
    """
    if cursor is None:
        return
    log = context.dependencies.log
    try:
        conversation_id = await log.conversation_of(cursor)
        head = None if conversation_id is None else await log.head(conversation_id)
    except PostgresUnavailable:
        return
    if head is None or head.role(context.principal) is None:
        raise unknown_cursor(param, "a chat completion")


def _completion(document: Document, output: Sequence[bytes]) -> ChatCompletion:
    response: dict[str, Any] = msgspec.json.decode(response_json(document, output))
    return chat_completion(response)
