"""The rules for a conversation's title, which a person gives or a model writes. Pure."""

from collections.abc import Iterable

from domain.commands import WriteTitle
from domain.conversation import Conversation
from domain.errors import HistoryLost, ItemsDeleted, TitleExists
from domain.events import ConversationDescribed, Event, ItemRetracted


def write_title(state: Conversation, command: WriteTitle) -> tuple[Event, ...]:
    """Raises TitleExists if the conversation has a title.

    Raises ItemsDeleted if an item was retracted or restored since `read_version`. Raises HistoryLost if the log has lost
    this version.
    """
    if command.read_version > state.version:
        raise HistoryLost(state.id)
    if state.title is not None:
        raise TitleExists(state.id)
    if command.read_version < state.retracted_at:
        raise ItemsDeleted(state.id)
    return (
        ConversationDescribed(
            title=command.title,
            title_by="model",
            title_items=command.title_items,
            model=command.model,
            usage=command.usage,
            cost=command.cost,
        ),
    )


def withdrawn_title(state: Conversation, events: Iterable[Event]) -> tuple[Event, ...]:
    """Removes a model's title if these events retract an item that the title was made from."""
    if state.title_by != "model":
        return ()
    retracted = {event.item_id for event in events if isinstance(event, ItemRetracted)}
    return () if retracted.isdisjoint(state.title_items) else (ConversationDescribed(title=None),)
