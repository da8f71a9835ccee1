"""Random requests for replies."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws


def reply(draws: Draws, conversation: ModelConversation) -> Command:
    author, text = draws.writer(conversation), draws.text()

    def apply(answer: Any) -> None:
        [question], [output] = answer["input_ids"], answer["output"]
        conversation.append(question, text, "user", author)
        conversation.append(output["id"], output["content"][0]["text"], "assistant", author, answer["id"])
        conversation.count_reply(author)

    body = {"conversation": conversation.id, "input": text}
    return Command(
        name="reply", subject=author, path="/v1/responses", body=body, conversation=conversation, apply=apply
    )
