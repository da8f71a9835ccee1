"""How the request and the end of a reply change the model.

The place of the reply and the ids of the joined items come from the log.
The texts of the items must fit the request and the answer.
"""

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.model_parts import ModelItem, ModelResponse, RunningReply
from tests.conversations.reply_records import JoinedItem, ReplyRecord


def start_reply(conversation: ModelConversation, record: ReplyRecord) -> None:
    leaf = conversation.item(record.leaf_id)
    conversation.running[record.id] = RunningReply(
        at_head=not record.names_leaf, leaf=leaf, names_leaf=record.names_leaf, head=conversation.head
    )


def finish_reply(
    conversation: ModelConversation, record: ReplyRecord, questions: list[str], *, is_chat: bool = False
) -> None:
    """`questions`: the texts of the input items that join, before the answer."""
    running = conversation.running.pop(record.id, None)
    input_ids = [each.id for each in record.inputs]
    joined_inputs = [each for each in record.joined if each.id in input_ids]
    joined_outputs = record.joined[len(joined_inputs) :]
    is_complete = record.status == "completed"
    is_stopped = record.status in ("cancelled", "incomplete") and not record.is_dropped
    keeps = running is not None and conversation.keeps_stopped and is_stopped
    assert [each.text for each in joined_inputs] == (questions if is_complete or keeps else [])
    if is_complete:
        assert [each.text for each in joined_outputs] == (record.outputs or [each.text for each in joined_outputs])
        assert joined_outputs
        conversation.replies[record.author] = conversation.replies.get(record.author, 0) + 1
    else:
        assert keeps or not joined_outputs
    inputs = [_item(each, record) for each in joined_inputs]
    outputs = [_item(each, record) for each in joined_outputs]
    if is_complete:
        for item in outputs:
            item.response = record.id
    last = conversation.head if running is None or running.at_head else running.leaf
    if running is not None:
        conversation.join(running, [*inputs, *outputs])
    conversation.responses[record.id] = ModelResponse(
        id=record.id,
        status=record.status,
        version=record.ended,
        author=record.author,
        is_chat=is_chat,
        had_turn=running is not None,
        questions=inputs,
        answers=outputs,
        input_texts=questions,
        names_leaf=running is not None and running.names_leaf,
        leaf=running.leaf if running else None,
        last=[*inputs, *outputs][-1] if record.joined else last,
    )


def _item(joined: JoinedItem, record: ReplyRecord) -> ModelItem:
    return ModelItem(id=joined.id, text=joined.text, role=joined.role, author=record.author)
