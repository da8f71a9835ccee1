"""Random deletions of responses that have ended."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.responses_in_model import delete_response


def delete_ended_response(draws: Draws, conversation: ModelConversation) -> Command | None:
    response = draws.one_of([each for each in conversation.responses.values() if not each.deleted])
    if response is None:
        return None
    path = f"/v1/responses/{response.id}"
    if response.is_chat and draws.random.random() < 0.5:
        path = f"/v1/chat/completions/{response.id.replace('resp_', 'chatcmpl-')}"

    def apply(_: Any) -> None:
        delete_response(draws.model, conversation, response)

    return Command(
        name="delete a response",
        subject=draws.writer(conversation),
        method="DELETE",
        path=path,
        conversation=conversation,
        apply=apply,
    )
