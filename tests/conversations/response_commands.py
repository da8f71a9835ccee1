"""Random changes and deletions of responses that have ended."""

from typing import Any

from tests.conversations.conversation_commands import random_metadata
from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.model_parts import ModelResponse
from tests.conversations.responses_in_model import delete_response


def delete_ended_response(draws: Draws, conversation: ModelConversation) -> Command | None:
    response = draws.one_of([each for each in conversation.responses.values() if not each.deleted])
    if response is None:
        return None
    is_named_as_chat = response.is_chat and draws.random.random() < 0.5
    path = _completion_path(response) if is_named_as_chat else f"/v1/responses/{response.id}"

    def apply(_: Any) -> None:
        delete_response(draws.model, conversation, response)

    return Command(
        name="delete a response",
        subject=draws.writer(conversation),
        method="DELETE",
        path=path,
        conversation=conversation,
        deletes=response.id,
        apply=apply,
    )


def describe_completion(draws: Draws, conversation: ModelConversation) -> Command | None:
    completions = [each for each in conversation.responses.values() if each.is_chat and not each.deleted]
    if (response := draws.one_of(completions)) is None:
        return None
    metadata = random_metadata(draws)

    def apply(_: Any) -> None:
        response.metadata = metadata

    return Command(
        name="describe a chat completion",
        subject=draws.writer(conversation),
        path=_completion_path(response),
        body={"metadata": metadata},
        conversation=conversation,
        apply=apply,
    )


def _completion_path(response: ModelResponse) -> str:
    return f"/v1/chat/completions/{response.id.replace('resp_', 'chatcmpl-')}"
