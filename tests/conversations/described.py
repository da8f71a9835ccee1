"""The model as text, for the message of a failed history."""

from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.model_parts import ModelItem


def described(model: ConversationModel) -> str:
    return "\n".join(map(_conversation, model.conversations))


def _conversation(conversation: ModelConversation) -> str:
    marks = [name for name in ("deleted", "ended", "archived") if getattr(conversation, name)]
    marks += [] if conversation.listed else ["unlisted"]
    fork = f", fork of {conversation.origin.id} after {_id(conversation.base)}" if conversation.origin else ""
    items = " ".join(
        f"{item.id}<{_id(item.parent)}{' retracted' if item.retracted else ''}" for item in conversation.items
    )
    hidden = " ".join(item.id for item in conversation.hidden)
    responses = " ".join(
        f"{each.id}:{each.status}{' deleted' if each.deleted else ''}" for each in conversation.responses.values()
    )
    summaries = " ".join(f"{each.version}:{_id(each.last)}" for each in conversation.summaries)
    return (
        f"{conversation.id} of {conversation.owner} {marks}{fork}, head {_id(conversation.head)}: {items}; "
        f"hidden {hidden}; responses {responses}; summaries {summaries}; version {conversation.version}"
    )


def _id(item: ModelItem | None) -> str | None:
    return item.id if item else None
