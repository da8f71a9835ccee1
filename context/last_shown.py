"""What the model was shown last for a reply. The provider may have refused the first request; then another context was sent."""

from collections.abc import Sequence

from msgspec.structs import replace

from domain.events import ReplyRequested, ReplyShown
from infrastructure.event_log.recorded import Recorded


def with_last_shown(events: Sequence[Recorded]) -> Recorded:
    """The ReplyRequested of a reply, with what the model was shown last.

    `events`: all events that name the reply, by ascending version. If none of them is a ReplyRequested, the first one
    is returned.
    """
    requested = next((recorded for recorded in events if isinstance(recorded.event, ReplyRequested)), events[0])
    shown = [event.shown for recorded in events if isinstance(event := recorded.event, ReplyShown)]
    if not shown or not isinstance(requested.event, ReplyRequested):
        return requested
    return replace(requested, event=replace(requested.event, shown=shown[-1]))
