"""Random forks, and the conversations that begin as forks."""

from collections.abc import Callable
from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.model_parts import ModelItem, ModelState, path_to


def fork(draws: Draws, conversation: ModelConversation) -> Command:
    return _fork(draws, conversation, {}, lambda state: state.head)


def fork_at_item(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (item := draws.item(conversation)) is None:
        return None
    return _fork(draws, conversation, {"item": item.id}, lambda _: item)


def fork_with_tail(draws: Draws, conversation: ModelConversation) -> Command | None:
    item = draws.one_of(conversation.shown(conversation.head))
    if item is None:
        return None
    return _fork(draws, conversation, {"item": item.id, "include_after": True}, lambda state: state.head)


def fork_at_version(draws: Draws, conversation: ModelConversation) -> Command | None:
    if (version := draws.one_of([*conversation.states])) is None:
        return None
    return _fork(draws, conversation, {"version": version}, lambda state: state.head)


def fork_with_tail_of_version(draws: Draws, conversation: ModelConversation) -> Command | None:
    on_path = path_to(conversation.head)
    versions = [version for version, state in conversation.states.items() if state.head in (None, *on_path)]
    if (version := draws.one_of(versions)) is None:
        return None
    return _fork(draws, conversation, {"version": version, "include_after": True}, lambda state: state.head)


def _fork(
    draws: Draws, conversation: ModelConversation, body: Any, base: Callable[[ModelState], ModelItem | None]
) -> Command:
    """`base` finds the last item that the fork inherits, in the state at the forked version."""
    owner = draws.reader(conversation)

    def apply(answer: Any) -> None:
        version = answer["forked_from"]["version"]
        forked = forked_conversation(conversation, version, base(conversation.state_at(version)), answer["id"], owner)
        # A command that was sent at the same time may have changed the title before.
        forked.title, forked.position = answer["title"], answer["position"]
        forked.note_state(answer["own_version"])
        draws.model.conversations.append(forked)

    return draws.command(f"fork at {[*body]}", conversation, apply, "/fork", body, subject=owner)


def forked_conversation(
    origin: ModelConversation, version: int, base: ModelItem | None, conversation_id: str, owner: str
) -> ModelConversation:
    state = origin.state_at(version)
    return ModelConversation(
        id=conversation_id,
        owner=owner,
        title=None,
        instructions=state.instructions,
        keeps_stopped=state.keeps_stopped,
        origin=origin,
        base=base,
        head=base,
        pinned=[item for item in state.pinned if item in path_to(base)],
        inherited_summary=origin.active_summary(base, state.summaries),
    )


def opened_conversation(draws: Draws, started: Any) -> ModelConversation:
    """Adds the unlisted conversation that a reply opened. `started` is the data of the first event."""
    conversation_id, owner, fork = started["conversation_id"], started["owner"], started["forked_from"]
    if fork is None:
        opened = ModelConversation(id=conversation_id, owner=owner, title=None)
    else:
        origin = draws.model.conversation(fork["conversation_id"])
        assert origin is not None
        base = origin.item(fork["item_id"])
        opened = forked_conversation(origin, fork["version"], base, conversation_id, owner)
    opened.listed = False
    draws.model.conversations.append(opened)
    return opened
