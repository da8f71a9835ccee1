"""The writes of one event into all MongoDB views."""

from collections.abc import Iterator

from domain.events import ConversationDeleted
from infrastructure.event_log.recorded import Logged
from projections.views.catalog import CONVERSATION_VIEWS
from projections.views.conversations import conversation_writes
from projections.views.feedback import feedback_writes
from projections.views.items import item_writes
from projections.views.responses import response_writes
from projections.views.search import search_writes
from projections.views.usage import usage_writes
from projections.views.writes import Remove, Write


def is_deletion(logged: Logged) -> bool:
    """Reads only the topic, because the event's state may be unreadable."""
    return logged.topic == ConversationDeleted.topic


def event_writes(logged: Logged) -> Iterator[Write]:
    """Raises UnreadableEvent."""
    if is_deletion(logged):
        for view in CONVERSATION_VIEWS:
            yield Remove(view, logged.tenant, logged.conversation_id)
        return
    yield from conversation_writes(logged)
    yield from item_writes(logged)
    yield from response_writes(logged)
    yield from search_writes(logged)
    yield from feedback_writes(logged)
    yield from usage_writes(logged)
