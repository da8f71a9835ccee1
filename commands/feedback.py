"""Gives, changes and withdraws feedback to items and responses."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, Field, StringConstraints
from starlette.responses import Response

from commands.bodies import Body, examples
from commands.command_route import CommandContext, command_route
from commands.inherited_items import inherited_item
from domain.commands import GiveFeedback, WithdrawFeedback
from domain.conversation import KnownItem
from domain.errors import ConversationNotFound, ItemNotFound, ResponseNotFound
from domain.events import FeedbackGiven, feedback_key
from infrastructure.event_log.append_request import Appended
from infrastructure.http import shapes
from infrastructure.http.feedback_shapes import Feedback, FeedbackDeleted
from infrastructure.ids import mint, minted_seconds

router = APIRouter()

FEEDBACK = "feedback"
MAX_LABELS = 16
ITEM_PATH = "/v1/conversations/{conversation_id}/items/{item_id}/feedback"
RESPONSE_PATH = "/v1/responses/{response_id}/feedback"


def _rating(rating: int) -> int:
    if rating not in (1, -1):
        raise ValueError("it must be 1 or -1")
    return rating


Label = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewFeedback(Body):
    """`rating`: 1 for good, -1 for bad. Giving again replaces the rating, the labels and the comment."""

    model_config = examples({"rating": -1, "labels": ["wrong", "too long"], "comment": "Oslo is not in Sweden."})

    rating: Annotated[int, AfterValidator(_rating)]
    labels: Annotated[list[Label], Field(max_length=MAX_LABELS)] | None = None
    comment: Annotated[str, StringConstraints(max_length=4_096)] | None = None


@command_route(router, "POST", ITEM_PATH, NewFeedback, answer=Feedback)
async def give_item_feedback(
    context: CommandContext, conversation_id: str, item_id: str, body: NewFeedback
) -> Response:
    """Rates an item. Whoever may read the conversation may do this. Answers with the feedback.

    Each subject has one feedback for an item. If the same feedback is given again, nothing changes.
    """
    try:
        return await _give(context, conversation_id, body, item_id=item_id)
    except ItemNotFound:
        inherited = await inherited_item(context, conversation_id, item_id)
        if inherited is None:
            raise
    return await _give(context, conversation_id, body, item_id=item_id, inherited=inherited)


@command_route(router, "POST", RESPONSE_PATH, NewFeedback, answer=Feedback)
async def give_response_feedback(context: CommandContext, response_id: str, body: NewFeedback) -> Response:
    """Rates a response, under the same rules as for an item."""
    conversation_id = await _conversation_of(context, response_id)
    try:
        return await _give(context, conversation_id, body, response_id=response_id)
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error


@command_route(router, "DELETE", ITEM_PATH, answer=FeedbackDeleted)
async def withdraw_item_feedback(context: CommandContext, conversation_id: str, item_id: str) -> Response:
    """Withdraws the caller's own feedback to an item. 404 if there is none. Answers with a receipt."""
    return await _withdraw(context, conversation_id, item_id=item_id)


@command_route(router, "DELETE", RESPONSE_PATH, answer=FeedbackDeleted)
async def withdraw_response_feedback(context: CommandContext, response_id: str) -> Response:
    """Withdraws the caller's own feedback to a response. 404 if there is none. Answers with a receipt."""
    conversation_id = await _conversation_of(context, response_id)
    try:
        return await _withdraw(context, conversation_id, response_id=response_id)
    except ConversationNotFound as error:
        raise ResponseNotFound(response_id) from error


async def _conversation_of(context: CommandContext, response_id: str) -> str:
    conversation_id = await context.dependencies.reader.conversation_of(response_id)
    if conversation_id is None:
        raise ResponseNotFound(response_id)
    return conversation_id


async def _give(
    context: CommandContext,
    conversation_id: str,
    body: NewFeedback,
    *,
    item_id: str | None = None,
    response_id: str | None = None,
    inherited: KnownItem | None = None,
) -> Response:
    by = context.principal.subject
    known_feedback = await _last_feedback(context, conversation_id, item_id or response_id or "", by)
    command = GiveFeedback(
        feedback_id=mint(FEEDBACK),
        known_id=known_feedback.feedback_id if known_feedback else None,
        by=by,
        item_id=item_id,
        response_id=response_id,
        rating=body.rating,
        labels=tuple(dict.fromkeys(body.labels or ())),
        comment=body.comment or None,
        inherited=inherited,
    )

    def answer(appended: Appended) -> bytes:
        given = next((event for event in appended.events if isinstance(event, FeedbackGiven)), None)
        feedback_id = (
            given.feedback_id if given else str(command.known_id)
        )  # without an event, the known feedback stays
        return shapes.encode(
            Feedback(
                id=feedback_id,
                conversation=conversation_id,
                item=item_id,
                response=response_id,
                rating=command.rating,
                labels=command.labels,
                comment=command.comment,
                by=command.by,
                created_at=minted_seconds(feedback_id),
            )
        )

    return await context.execute(conversation_id, command, answer)


async def _last_feedback(context: CommandContext, conversation_id: str, target: str, by: str) -> FeedbackGiven | None:
    events = await context.dependencies.reader.items(conversation_id, [feedback_key(target, by)])
    return events[-1].event if events and isinstance(events[-1].event, FeedbackGiven) else None


async def _withdraw(
    context: CommandContext, conversation_id: str, *, item_id: str | None = None, response_id: str | None = None
) -> Response:
    command = WithdrawFeedback(by=context.principal.subject, item_id=item_id, response_id=response_id)

    def receipt(_: Appended) -> bytes:
        return shapes.encode(FeedbackDeleted(item=item_id, response=response_id, deleted=True))

    return await context.execute(conversation_id, command, receipt)
