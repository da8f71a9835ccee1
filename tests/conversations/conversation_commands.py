"""Random commands on whole conversations."""

from typing import Any

from tests.conversations.conversation_model import EVERYONE, ModelConversation
from tests.conversations.draws import SUBJECTS, Command, Draws
from tests.conversations.model_parts import ModelItem, Role


def create(draws: Draws) -> Command:
    owner, title = draws.random.choice(SUBJECTS), draws.text()
    metadata, instructions = random_metadata(draws), draws.one_of((None, draws.text()))
    texts = [draws.text() for _ in range(draws.random.randrange(4))]
    stopped = draws.random.choice(("drop", "keep"))

    def apply(answer: Any) -> None:
        created = ModelConversation(
            id=answer["id"],
            owner=owner,
            title=title,
            instructions=instructions,
            metadata=metadata,
            position=answer["position"],
            keeps_stopped=stopped == "keep",
        )
        items = zip(answer["created"], texts, strict=True)
        if texts:
            created.append(*(ModelItem(id=item["id"], text=text, role="user", author=owner) for item, text in items))
        created.note_state(answer["version"])
        draws.model.conversations.append(created)

    body = {
        "title": title,
        "metadata": metadata,
        "instructions": instructions,
        "context_policy": {"stopped": stopped},
        "items": [{"role": "user", "content": text} for text in texts],
    }
    return Command(name="create", subject=owner, path="/v1/conversations", body=body, apply=apply)


def random_metadata(draws: Draws) -> dict[str, str]:
    return {"kind": draws.random.choice(("work", "play"))} if draws.random.random() < 0.5 else {}


def describe(draws: Draws, conversation: ModelConversation) -> Command:
    changes: dict[str, Any] = {
        "title": draws.one_of((None, draws.text())),
        "instructions": draws.one_of((None, draws.text())),
        "metadata": random_metadata(draws),
        "context_policy": {"stopped": draws.random.choice(("drop", "keep"))},
    }
    body = {name: changes[name] for name in draws.random.sample([*changes], draws.random.randint(1, 4))}

    def apply(_: Any) -> None:
        conversation.title = body.get("title", conversation.title)
        conversation.instructions = body.get("instructions", conversation.instructions)
        conversation.metadata = body.get("metadata", conversation.metadata)
        if "context_policy" in body:
            conversation.keeps_stopped = body["context_policy"]["stopped"] == "keep"

    return draws.command("describe", conversation, apply, body=body)


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
        draws.model.delete(conversation)

    return draws.command("delete", conversation, apply, subject=conversation.owner, method="DELETE")


def share(draws: Draws, conversation: ModelConversation) -> Command:
    target = draws.shared_with(conversation)
    role: Role = draws.random.choice(("reader", "writer"))

    def apply(_: Any) -> None:
        conversation.shares[target] = role

    named = {"tenant": True} if target == EVERYONE else {"subject": target}
    body = {"with": named, "role": role}
    return draws.command("share", conversation, apply, "/shares", body, subject=conversation.owner)


def unshare(draws: Draws, conversation: ModelConversation) -> Command | None:
    target = draws.one_of([*conversation.shares])
    if target is None:
        return None

    def apply(_: Any) -> None:
        del conversation.shares[target]

    suffix = "/shares?tenant=true" if target == EVERYONE else f"/shares?subject={target}"
    return draws.command("unshare", conversation, apply, suffix, subject=conversation.owner, method="DELETE")
