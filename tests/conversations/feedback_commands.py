"""Random feedback to items and responses."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.model_parts import ModelFeedback, ModelItem

LABELS = ("wrong", "funny", "long")


def rate_item(draws: Draws, conversation: ModelConversation) -> Command | None:
    return _give(draws, conversation, draws.item(conversation))


def rate_response(draws: Draws, conversation: ModelConversation) -> Command | None:
    return _give(
        draws, conversation, draws.one_of([each.id for each in conversation.responses.values() if not each.deleted])
    )


def _give(draws: Draws, conversation: ModelConversation, rated: ModelItem | str | None) -> Command | None:
    if rated is None:
        return None
    by = draws.reader(conversation)
    given = ModelFeedback(
        rating=draws.random.choice((1, -1)),
        labels=tuple(draws.random.sample(LABELS, draws.random.randrange(3))),
        comment=draws.one_of((None, draws.text())),
    )

    def apply(_: Any) -> None:
        conversation.feedback[rated, by] = given

    body = {"rating": given.rating, "labels": given.labels, "comment": given.comment}
    return Command(
        name="give feedback",
        subject=by,
        path=_path(conversation, rated),
        body=body,
        conversation=conversation,
        apply=apply,
    )


def withdraw(draws: Draws, conversation: ModelConversation) -> Command | None:
    given = [key for key in conversation.feedback if conversation.is_readable_by(key[1])]
    if (key := draws.one_of(given)) is None:
        return None
    rated, by = key

    def apply(_: Any) -> None:
        del conversation.feedback[rated, by]

    return Command(
        name="withdraw feedback",
        subject=by,
        method="DELETE",
        path=_path(conversation, rated),
        conversation=conversation,
        apply=apply,
    )


def _path(conversation: ModelConversation, rated: ModelItem | str) -> str:
    if isinstance(rated, str):
        return f"/v1/responses/{rated}/feedback"
    return f"/v1/conversations/{conversation.id}/items/{rated.id}/feedback"
