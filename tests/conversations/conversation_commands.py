"""Random commands on whole conversations."""

from collections.abc import Callable
from typing import Any

from tests.conversations.conversation_model import ModelConversation, ModelItem, Role
from tests.conversations.draws import SUBJECTS, Command, Draws


def create(draws: Draws) -> Command:
    owner, title = draws.random.choice(SUBJECTS), draws.text()
    stopped = draws.random.choice(("drop", "keep"))

    def apply(answer: Any) -> None:
        created = ModelConversation(
            id=answer["id"], owner=owner, title=title, position=answer["position"], keeps_stopped=stopped == "keep"
        )
        draws.model.conversations.append(created)

    body = {"title": title, "context_policy": {"stopped": stopped}}
    return Command(name="create", subject=owner, path="/v1/conversations", body=body, apply=apply)


def describe(draws: Draws, conversation: ModelConversation) -> Command:
    title = draws.text()

    def apply(_: Any) -> None:
        conversation.title = title

    return draws.command("describe", conversation, apply, body={"title": title})


def archive(draws: Draws, conversation: ModelConversation) -> Command:
    archived = not conversation.archived

    def apply(_: Any) -> None:
        conversation.archived = archived

    name = "archive" if archived else "unarchive"
    return draws.command(name, conversation, apply, f"/{name}")


def end(draws: Draws, conversation: ModelConversation) -> Command | None:
    return None if conversation.ended else _end_or_reopen(draws, conversation, ended=True)


def reopen(draws: Draws, conversation: ModelConversation) -> Command | None:
    return _end_or_reopen(draws, conversation, ended=False) if conversation.ended else None


def _end_or_reopen(draws: Draws, conversation: ModelConversation, *, ended: bool) -> Command:
    def apply(_: Any) -> None:
        conversation.ended = ended

    name = "end" if ended else "reopen"
    return draws.command(name, conversation, apply, f"/{name}")


def delete(draws: Draws, conversation: ModelConversation) -> Command:
    def apply(_: Any) -> None:
        conversation.deleted = True

    return draws.command("delete", conversation, apply, subject=conversation.owner, method="DELETE")


def share(draws: Draws, conversation: ModelConversation) -> Command:
    other = SUBJECTS[1 - SUBJECTS.index(conversation.owner)]
    role: Role = draws.random.choice(("reader", "writer"))

    def apply(_: Any) -> None:
        conversation.shares[other] = role

    body = {"with": {"subject": other}, "role": role}
    return draws.command("share", conversation, apply, "/shares", body, subject=conversation.owner)


def unshare(draws: Draws, conversation: ModelConversation) -> Command | None:
    if not conversation.shares:
        return None
    [other] = conversation.shares

    def apply(_: Any) -> None:
        del conversation.shares[other]

    suffix = f"/shares?subject={other}"
    return draws.command("unshare", conversation, apply, suffix, subject=conversation.owner, method="DELETE")


def fork_at_item(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None
    return _fork(draws, conversation, {"item": item.id}, lambda: (item, conversation.pinned))


def fork_with_tail(draws: Draws, conversation: ModelConversation) -> Command | None:
    item = draws.one_of(conversation.shown(conversation.head))
    if item is None:
        return None
    body = {"item": item.id, "include_after": True}
    return _fork(draws, conversation, body, lambda: (conversation.head, conversation.pinned))


def fork_at_version(draws: Draws, conversation: ModelConversation) -> Command | None:
    if not conversation.states:
        return None
    version, state = draws.random.choice([*conversation.states.items()])
    return _fork(draws, conversation, {"version": version}, lambda: (state.head, state.pinned))


def fork(draws: Draws, conversation: ModelConversation) -> Command:
    return _fork(draws, conversation, {}, lambda: (conversation.head, conversation.pinned))


def _fork(
    draws: Draws,
    conversation: ModelConversation,
    body: Any,
    begins_with: Callable[[], tuple[ModelItem | None, list[ModelItem]]],
) -> Command:
    """`begins_with` returns the last item that the fork inherits, and the pinned items of the origin."""
    owner = draws.reader(conversation)

    def apply(answer: Any) -> None:
        base, pinned = begins_with()
        path = base.path if base else []
        forked = ModelConversation(
            id=answer["id"],
            owner=owner,
            title=answer["title"],
            position=answer["position"],
            keeps_stopped=conversation.keeps_stopped,
            origin=conversation,
            base=base,
            head=base,
            pinned=[item for item in pinned if item in path],
        )
        draws.model.conversations.append(forked)

    name = f"fork at {[*body]}"
    return draws.command(name, conversation, apply, "/fork", body, subject=owner)
