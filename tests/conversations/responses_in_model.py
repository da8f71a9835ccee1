"""How the deletion of a response changes the model."""

from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.model_parts import ModelResponse


def delete_response(model: ConversationModel, conversation: ModelConversation, response: ModelResponse) -> None:
    """In an unlisted conversation, the items are deleted, or the conversation if nothing else is left."""
    response.deleted = True
    for item in response.answers:
        item.response = None
    if conversation.listed:
        return
    deleted = [item for item in response.items if not item.retracted]
    is_last = all(each.deleted for each in conversation.responses.values()) and not conversation.running
    if is_last and sum(not item.retracted for item in conversation.items) == len(deleted):
        model.delete(conversation)
        return
    for item in deleted:
        model.retract(conversation, item)
