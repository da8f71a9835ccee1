"""Random replies that fail, and retries of failed or stopped replies."""

from typing import Any, Final

from msgspec.structs import replace

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Draws, ReplyCommand
from tests.conversations.model_parts import ModelResponse
from tests.conversations.reply_commands import regenerate, reply, request
from tests.conversations.reply_records import ReplyRecord

FAILING_MODEL: Final = "failing"

NOT_RETRIED: Final = frozenset({"answer_is_summarized", "input_deleted"})


def failing_reply(draws: Draws, conversation: ModelConversation) -> ReplyCommand:
    return _failing(reply(draws, conversation))


def failing_regenerate(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    return None if (command := regenerate(draws, conversation)) is None else _failing(command)


def _failing(command: ReplyCommand) -> ReplyCommand:
    body = {**command.body, "model": FAILING_MODEL}
    return replace(command, name=f"failing {command.name}", body=body, fails=True)


def retry(draws: Draws, conversation: ModelConversation) -> ReplyCommand | None:
    """Each response is retried at most once, so that no item is copied."""
    retryable = [each for each in conversation.responses.values() if _may_retry(conversation, each)]
    if (response := draws.one_of(retryable)) is None:
        return None
    response.is_retried = True
    author = draws.writer(conversation)
    body: dict[str, Any] = {"retry": response.id, "model": "scripted", "background": False}

    def expects(_: ModelConversation, record: ReplyRecord) -> None:
        assert record.names_leaf == response.names_leaf
        if response.names_leaf:
            leaf = response.questions[-1] if response.questions else response.leaf
            assert record.leaf_id == (leaf.id if leaf else None)

    def joins(_: ReplyRecord) -> list[str]:
        return [] if response.has_joined else response.input_texts

    command = request("retry", conversation, author, body, expects=expects, joins=joins)

    def start(target: ModelConversation, record: ReplyRecord) -> None:
        for item in response.answers:
            if not item.retracted:
                draws.model.retract(target, item)
        command.start(target, record)

    return replace(command, start=start, refusals=NOT_RETRIED)


def _may_retry(conversation: ModelConversation, response: ModelResponse) -> bool:
    if response.status == "completed" or response.is_chat or not response.had_turn:
        return False
    if response.deleted or response.is_retried:
        return False
    return response.names_leaf or response.last is conversation.head
