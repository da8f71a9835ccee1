"""The rules for feedback on an item or a response. Pure."""

from collections.abc import Mapping

from msgspec.structs import replace

from domain.commands import GiveFeedback, WithdrawFeedback
from domain.conversation import KnownItem
from domain.errors import FeedbackNotFound, ItemNotFound, ResponseNotFound
from domain.events import Event, FeedbackGiven, FeedbackWithdrawn, feedback_key


def give_feedback(command: GiveFeedback, known_items: Mapping[str, KnownItem]) -> tuple[Event, ...]:
    """No event if the feedback `known_id` already has these values. Raises ItemNotFound or ResponseNotFound."""
    target = _target(command, known_items.get(command.target, command.inherited))
    known_feedback = known_items.get(feedback_key(command.target, command.by))
    given = known_feedback.feedback if known_feedback else None
    new = FeedbackGiven(
        feedback_id=given.feedback_id if given else command.feedback_id,
        by=command.by,
        rating=command.rating,
        item_id=command.item_id,
        response_id=command.response_id,
        labels=command.labels,
        comment=command.comment,
        previous=given.rating if given else None,
        copy_of=target.copy_of,
        inherited=target.inherited,
    )
    if given is not None and given.feedback_id == command.known_id and replace(new, previous=given.previous) == given:
        return ()
    return (new,)


def withdraw_feedback(command: WithdrawFeedback, known_items: Mapping[str, KnownItem]) -> tuple[Event, ...]:
    """Raises FeedbackNotFound."""
    known_feedback = known_items.get(feedback_key(command.target, command.by))
    given = known_feedback.feedback if known_feedback else None
    if given is None:
        raise FeedbackNotFound(command.target)
    withdrawn = FeedbackWithdrawn(
        feedback_id=given.feedback_id,
        by=given.by,
        rating=given.rating,
        item_id=given.item_id,
        response_id=given.response_id,
        inherited=given.inherited,
    )
    return (withdrawn,)


def _target(command: GiveFeedback, target: KnownItem | None) -> KnownItem:
    if target is not None and not target.retracted:
        return target
    if command.item_id is not None:
        raise ItemNotFound(command.item_id)
    raise ResponseNotFound(command.target)
