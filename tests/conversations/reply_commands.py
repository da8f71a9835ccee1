"""Random requests for replies: at the head, after an earlier answer, and beside an earlier answer."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation, ModelItem
from tests.conversations.draws import Apply, Command, Draws


def reply(draws: Draws, conversation: ModelConversation) -> Command:
    author, question = draws.writer(conversation), draws.text()

    def start(response_id: Any) -> None:
        conversation.request_reply(response_id)

    body = {"conversation": conversation.id, "input": question}
    return _request("reply", conversation, author, body, start=start, question=question)


def continue_answer(draws: Draws, conversation: ModelConversation) -> Command | None:
    """Asks for a reply after an earlier answer. If that answer is the head, the request names no leaf."""
    if (answer := _answer(draws, conversation)) is None:
        return None
    author, question = draws.writer(conversation), draws.text()

    def start(response_id: Any) -> None:
        conversation.request_reply(response_id, *([] if answer is conversation.head else [answer]))

    body = {"previous_response_id": answer.response, "input": question}
    return _request("continue", conversation, author, body, start=start, question=question)


def regenerate(draws: Draws, conversation: ModelConversation) -> Command | None:
    """Asks for another answer beside an earlier one. A fork may have inherited that one."""
    answers = [item for item in conversation.nodes if item.response is not None and conversation.shows(item)]
    if (answer := draws.one_of(answers)) is None:
        return None
    author = draws.writer(conversation)

    def start(response_id: Any) -> None:
        conversation.request_reply(response_id, answer.parent)

    body = {"regenerate": draws.random.choice((answer.id, answer.response))}
    if answer.conversation is not conversation:
        body = {"regenerate": answer.id, "conversation": conversation.id}
    return _request("regenerate", conversation, author, body, start=start)


def _answer(draws: Draws, conversation: ModelConversation) -> ModelItem | None:
    """An answer that a reply gave in this conversation."""
    answers = [item for item in conversation.items if item.response is not None and conversation.shows(item)]
    return draws.one_of(answers)


def _request(
    name: str, conversation: ModelConversation, author: str, body: Any, *, start: Apply, question: str | None = None
) -> Command:
    def apply(answer: Any) -> None:
        questions = [
            ModelItem(id=item, text=question or "", role="user", author=author) for item in answer["input_ids"]
        ]
        assert len(questions) == (question is not None)
        [output] = answer["output"]
        text = output["content"][0]["text"]
        answered = ModelItem(id=output["id"], text=text, role="assistant", author=author, response=answer["id"])
        conversation.complete_reply(answer["id"], author, *questions, answered)

    return Command(
        name=name, subject=author, path="/v1/responses", body=body, conversation=conversation, start=start, apply=apply
    )
