"""The rules for a conversation's title. A person gives one, or a model writes one from a question and its answer. Pure."""

from collections.abc import Iterable

from domain.commands import WriteTitle
from domain.conversation import Conversation
from domain.errors import HistoryLost, ItemsDeleted, TitleExists
from domain.events import ConversationDescribed, Event, ItemRetracted


def write_title(state: Conversation, command: WriteTitle) -> tuple[Event, ...]:
    """Records a model's title. Raises TitleExists if the conversation has a title by now.

    Raises ItemsDeleted if an item was retracted or restored after the title's items were read, and HistoryLost if the log has lost
    the version at which they were read.
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
    """Takes a model's title away if these events retract one of the items that it was made from."""
    if state.title_by != "model":
        return ()
    retracted = {event.item_id for event in events if isinstance(event, ItemRetracted)}
    return () if retracted.isdisjoint(state.title_items) else (ConversationDescribed(title=None),)
