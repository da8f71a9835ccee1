"""Random requests for replies, and how they end."""

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import SUBJECTS, Draws, ReplyCommand, ReplyStep
from tests.conversations.fork_commands import opened_conversation
from tests.conversations.model_parts import ModelItem
from tests.conversations.reply_ends import finish_reply, start_reply
from tests.conversations.reply_records import ReplyRecord
from tests.conversations.responses_in_model import delete_response

ENDLESS_MODEL: Final = "endless"
"""Its answers do not end by themselves."""

ON_BUSY: Final = ("reject", "queue", "queue", "interrupt")


def reply(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    """Through either API."""
    author, question = draws.writer(conversation), draws.text()
    if draws.random.random() < 0.3:
        messages = [{"role": "user", "content": question}]
        body = {"conversation": conversation.id, "messages": messages, "model": "scripted", "store": True}
        return request(
            "chat reply",
            conversation,
            author,
            body,
            expects=_at_head,
            joins=_only(question),
            path="/v1/chat/completions",
        )
    body = {"conversation": conversation.id, "input": question, "on_busy": draws.random.choice(ON_BUSY)}
    return request(f"reply ({body['on_busy']})", conversation, author, body, expects=_at_head, joins=_only(question))


def background_reply(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    author, question = draws.writer(conversation), draws.text()
    body = {
        "conversation": conversation.id,
        "input": question,
        "background": True,
        "on_busy": draws.random.choice(ON_BUSY),
    }
    command = request(
        f"background reply ({body['on_busy']})", conversation, author, body, expects=_at_head, joins=_only(question)
    )
    return replace(command, waits=True)


def continue_answer(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    if (answer := _own_answer(draws, conversation)) is None:
        return None
    author, question = draws.writer(conversation), draws.text()
    body = {"previous_response_id": answer.response, "input": question}

    def expects(_: ModelConversation, record: ReplyRecord) -> None:
        assert record.names_leaf == (answer is not conversation.head)
        assert record.leaf_id == (answer.id if record.names_leaf else None)

    return request("continue", conversation, author, body, expects=expects, joins=_only(question))


def continue_elsewhere(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    """Somebody who may only read the conversation continues in a fork."""
    readers = [each for each in SUBJECTS if conversation.is_readable_by(each) and not conversation.is_writable_by(each)]
    if not readers or (answer := _own_answer(draws, conversation)) is None:
        return None
    [author], question = readers, draws.text()
    body = {"previous_response_id": answer.response, "input": question}

    def expects(fork: ModelConversation, _: ReplyRecord) -> None:
        assert (fork.origin, fork.base, fork.owner) == (conversation, answer, author)

    command = request("continue elsewhere", conversation, author, body, expects=expects, joins=_only(question))
    return replace(command, opens=lambda started: opened_conversation(draws, started))


def ask_nowhere(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    """Begins an unlisted conversation. `conversation` is not used."""
    author, question = draws.reader(conversation), draws.text()

    def expects(opened: ModelConversation, _: ReplyRecord) -> None:
        assert (opened.origin, opened.owner) == (None, author)

    command = request("ask nowhere", conversation, author, {"input": question}, expects=expects, joins=_only(question))
    return replace(command, opens=lambda started: opened_conversation(draws, started))


def regenerate(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    answers = [item for item in conversation.nodes if item.response is not None and conversation.shows(item)]
    if (answer := draws.one_of(answers)) is None:
        return None
    author = draws.writer(conversation)
    body: dict[str, Any] = {"regenerate": draws.random.choice((answer.id, answer.response))}
    if answer.conversation is not conversation or draws.random.random() < 0.3:
        body = {"regenerate": answer.id, "conversation": conversation.id}

    def expects(_: ModelConversation, record: ReplyRecord) -> None:
        assert (record.names_leaf, record.leaf_id) == (True, answer.parent.id if answer.parent else None)

    return request("regenerate", conversation, author, body, expects=expects, joins=_nothing)


def stopped_reply(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    author, question = draws.writer(conversation), draws.text()
    on_busy = draws.random.choice(ON_BUSY)
    body = {"conversation": conversation.id, "input": question, "on_busy": on_busy}
    command = request(f"reply ({on_busy})", conversation, author, body, expects=_at_head, joins=_only(question))
    return _stopped(draws, command)


def stopped_regenerate(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    return None if (command := regenerate(draws, conversation)) is None else _stopped(draws, command)


def deleted_reply(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    """The response is deleted while it runs or waits."""
    command = stopped_reply(draws, conversation)

    def finish(conversation: ModelConversation, record: ReplyRecord) -> None:
        command.finish(conversation, record)
        delete_response(draws.model, conversation, conversation.responses[record.id])

    return replace(command, name=f"{command.name}, deleted", stop="DELETE", finish=finish)


def _stopped(draws: Draws, command: ReplyCommand) -> ReplyCommand:
    return replace(
        command,
        name=f"stopped {command.name}",
        body={**command.body, "model": ENDLESS_MODEL, "background": True},
        stop="POST",
        stops_after=draws.random.choice((0, 0.05, 0.1)),
    )


def _own_answer(draws: Draws, conversation: ModelConversation) -> ModelItem | None:
    answers = [item for item in conversation.items if item.response is not None and conversation.shows(item)]
    return draws.one_of(answers)


def _only(question: str) -> Callable[[ReplyRecord], list[str]]:
    return lambda _: [question]


def _nothing(_: ReplyRecord) -> list[str]:
    return []


def _at_head(_: ModelConversation, record: ReplyRecord) -> None:
    assert not record.names_leaf


def request(
    name: str,
    conversation: ModelConversation,
    author: str,
    body: Any,
    *,
    expects: ReplyStep,
    joins: Callable[[ReplyRecord], list[str]],
    path: str = "/v1/responses",
) -> ReplyCommand:
    """`expects`: checks the place of the reply, if no other command was sent at the same time. `joins`: the texts of the input items that join."""
    is_chat = path != "/v1/responses"

    def start(target: ModelConversation, record: ReplyRecord) -> None:
        if record.is_alone:
            expects(target, record)
        start_reply(target, record)

    def finish(target: ModelConversation, record: ReplyRecord) -> None:
        finish_reply(target, record, joins(record), is_chat=is_chat)

    return ReplyCommand(
        name=name, subject=author, path=path, body=body, conversation=conversation, start=start, finish=finish
    )
