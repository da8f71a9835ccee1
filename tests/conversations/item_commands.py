"""Random commands on the items of a conversation."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.model_parts import ModelItem


def append(draws: Draws, conversation: ModelConversation) -> Command:
    author, texts = draws.writer(conversation), [draws.text() for _ in range(draws.random.randint(1, 3))]

    def apply(answer: Any) -> None:
        added = zip(answer["data"], texts, strict=True)
        conversation.append(*(ModelItem(id=item["id"], text=text, role="user", author=author) for item, text in added))

    body = {"items": [{"role": "user", "content": text} for text in texts]}
    return draws.command("append", conversation, apply, "/items", body, subject=author)


def revise(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None
    author, text = draws.writer(conversation), draws.text()

    def apply(answer: Any) -> None:
        conversation.branch(ModelItem(id=answer["id"], text=text, role="user", author=author), item.parent)

    body = {"item": {"role": "user", "content": text}}
    return draws.command("revise", conversation, apply, f"/items/{item.id}", body, subject=author)


def move_head(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None

    def apply(_: Any) -> None:
        conversation.move_head(item)

    return draws.command("move the head", conversation, apply, "/head", {"item": item.id})


def retract(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None

    def apply(_: Any) -> None:
        draws.model.retract(conversation, item)

    return draws.command("retract", conversation, apply, f"/items/{item.id}", method="DELETE")


def restore(draws: Draws, conversation: ModelConversation) -> Command | None:
    """Restores an item that was retracted here, is not deleted in the origin, and was not deleted with its response."""
    own = [item for item in conversation.items if item.retracted and not conversation.is_deleted_with_response(item)]
    hidden = [item for item in conversation.hidden if conversation.origin and conversation.origin.shows(item)]
    if (item := draws.one_of([*own, *hidden])) is None:
        return None

    def apply(_: Any) -> None:
        draws.model.restore(conversation, item)

    return draws.command("restore", conversation, apply, f"/items/{item.id}/restore")


def pin(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None

    def apply(_: Any) -> None:
        if item not in conversation.pinned:
            conversation.pinned.append(item)

    return draws.command("pin", conversation, apply, f"/items/{item.id}/pin")


def unpin(draws: Draws, conversation: ModelConversation) -> Command | None:
    item = draws.one_of([item for item in conversation.pinned if conversation.shows(item)])
    if item is None:
        return None

    def apply(_: Any) -> None:
        if item in conversation.pinned:
            conversation.pinned.remove(item)

    return draws.command("unpin", conversation, apply, f"/items/{item.id}/unpin")
