"""Random requests that repeat the history. The store finds the conversation that a request continues."""

from typing import Final

from msgspec.structs import replace

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Draws, ReplyCommand
from tests.conversations.fork_commands import opened_conversation
from tests.conversations.model_parts import ModelItem
from tests.conversations.reply_commands import request
from tests.conversations.reply_records import ReplyRecord

CHAT: Final = "/v1/chat/completions"


def chat(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    """A new transcript. The request does not name the conversation."""
    return _with_history(draws, conversation, draws.reader(conversation), [], path=CHAT)


def chat_on(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    """The transcript of a path that ends with an answer, and a new question."""
    return _on_path(draws, conversation, CHAT)


def repeat_history(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    """As `chat_on`, with the Responses API."""
    return _on_path(draws, conversation, "/v1/responses")


def _on_path(draws: Draws, conversation: ModelConversation, path: str) -> ReplyCommand | None:
    author = draws.reader(conversation)
    answers = [item for item in conversation.nodes if item.role == "assistant" and conversation.shows(item)]
    if (answer := draws.one_of(answers)) is None:
        return None
    return _with_history(draws, conversation, author, conversation.shown(answer), path=path)


def _with_history(
    draws: Draws, conversation: ModelConversation, author: str, history: list[ModelItem], *, path: str
) -> ReplyCommand:
    question = draws.text()
    messages = [*({"role": item.role, "content": item.text} for item in history), {"role": "user", "content": question}]
    sent = [str(message["content"]) for message in messages]
    body = {"model": "scripted", "store": True, "messages" if path == CHAT else "input": messages}

    def expects(_: ModelConversation, __: ReplyRecord) -> None:
        """Expects nothing. `finish` checks the path."""

    def joins(record: ReplyRecord) -> list[str]:
        texts = [each.text for each in record.inputs]
        assert texts == sent[-len(texts) :]
        return texts

    name = "chat" if path == CHAT else "repeat history"
    command = request(name, conversation, author, body, expects=expects, joins=joins, path=path)

    def start(target: ModelConversation, record: ReplyRecord) -> None:
        if path == CHAT and target.states:  # the conversation existed before
            target.listed = True
        command.start(target, record)

    def finish(target: ModelConversation, record: ReplyRecord) -> None:
        command.finish(target, record)
        if record.is_alone:
            _check_path(target, [*sent, record.joined[-1].text], record.joined[-1].id)

    return replace(command, start=start, finish=finish, opens=lambda started: opened_conversation(draws, started))


def _check_path(conversation: ModelConversation, sent: list[str], last_id: str) -> None:
    """The path has the sent texts in their order, and no text twice. The path may have more texts."""
    texts = [item.text for item in conversation.shown(conversation.item(last_id))]
    assert [text for text in texts if text in sent] == sent
    assert len({*texts}) == len(texts)
