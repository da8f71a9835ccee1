"""What the model was shown last for a reply. After a provider's refusal, another context may have been sent."""

from collections.abc import Sequence

from msgspec.structs import replace

from domain.events import ReplyRequested, ReplyShown
from infrastructure.event_log.recorded import Recorded


def with_last_shown(events: Sequence[Recorded]) -> Recorded:
    """The request, with what the model was shown last.

    `events`: all events that name the reply, by ascending version. If no event is a request, returns the first event.
    """
    requested = next((recorded for recorded in events if isinstance(recorded.event, ReplyRequested)), events[0])
    shown = [event.shown for recorded in events if isinstance(event := recorded.event, ReplyShown)]
    if not shown or not isinstance(requested.event, ReplyRequested):
        return requested
    return replace(requested, event=replace(requested.event, shown=shown[-1]))
