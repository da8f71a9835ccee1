"""Random requests for replies."""

from typing import Any

from msgspec.structs import replace

from tests.conversations.conversation_model import ModelConversation, ModelItem
from tests.conversations.draws import Apply, Command, Draws

ENDLESS_MODEL = "endless"
"""The answers of this model do not end by themselves."""


def reply(draws: Draws, conversation: ModelConversation) -> Command:
    author, question = draws.writer(conversation), draws.text()

    def start(response_id: Any) -> None:
        conversation.request_reply(response_id)

    body = {"conversation": conversation.id, "input": question}
    return _request("reply", conversation, author, body, start=start, question=question)


def stopped_reply(draws: Draws, conversation: ModelConversation) -> Command:
    return _stopped(draws, reply(draws, conversation))


def stopped_regenerate(draws: Draws, conversation: ModelConversation) -> Command | None:
    return None if (command := regenerate(draws, conversation)) is None else _stopped(draws, command)


def _stopped(draws: Draws, command: Command) -> Command:
    return replace(
        command,
        name=f"stopped {command.name}",
        body={**command.body, "model": ENDLESS_MODEL, "background": True},
        stops_after=draws.random.choice((0, 0.05, 0.1)),
    )


def continue_answer(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (answer := _answer(draws, conversation)) is None:
        return None
    author, question = draws.writer(conversation), draws.text()

    def start(response_id: Any) -> None:
        conversation.request_reply(response_id, *([] if answer is conversation.head else [answer]))

    body = {"previous_response_id": answer.response, "input": question}
    return _request("continue", conversation, author, body, start=start, question=question)


def regenerate(draws: Draws, conversation: ModelConversation) -> Command | None:
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
        is_complete = answer["status"] == "completed"
        answers = [
            ModelItem(
                id=output["id"],
                text=output["content"][0]["text"],
                role="assistant",
                author=author,
                response=answer["id"] if is_complete else None,
            )
            for output in answer["output"]
        ]
        if is_complete:
            conversation.complete_reply(answer["id"], author, *questions, *answers)
        else:
            conversation.stop_reply(answer["id"], *questions, *answers)

    return Command(
        name=name, subject=author, path="/v1/responses", body=body, conversation=conversation, start=start, apply=apply
    )
