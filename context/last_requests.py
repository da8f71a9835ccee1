"""The last request to each model on a path. The next request to that model is compared with it. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

from context.conversation_settings import Summary
from context.selection import ContextItem
from domain.events import Event, ReplyRequested, ReplyShown, SentSequence

MAX_LAST_REQUESTS = 16
"""For how many models the last request is kept: the models that were used most recently."""


def sent_request(event: Event) -> tuple[str, SentSequence] | None:
    """The model and the sequence of the request that this event records.

    This may also be a request that was sent with another context, because the provider had refused the first one.

    None for other events, for requests that recorded no sequence, and for chat completions.
    """
    if isinstance(event, ReplyRequested | ReplyShown) and event.shown.sequence is not None:
        return event.model, event.shown.sequence
    return None


def opens_branch(event: Event) -> bool:
    """Whether this event records a request of a reply whose answer will open a branch. If so, only requests on that branch are compared with this request."""
    match event:
        case ReplyRequested():
            return event.after is not None
        case ReplyShown():
            return event.aside
        case _:
            return False


def comparable_requests(
    last_requests: Mapping[str, SentSequence], items: Sequence[ContextItem], *, reaches_start: bool, summary_depth: int
) -> dict[str, SentSequence]:
    """The last requests that were made since the oldest of `items` was appended. `items`: the path's newest items.

    If `items` reach the start of the path: the last requests that were made since the last summarized item was appended. Without a
    summary: all last requests. So the result is the same from a snapshot and from the log. A snapshot may have older requests, which
    are not read from the log.
    """
    from_depth = summary_depth if reaches_start else items[0].depth
    return {model: sequence for model, sequence in last_requests.items() if sequence.depth >= from_depth}


def summary_hash(summary: Summary | None) -> bytes:
    """The value of `SentSequence.summary` for this summary. Empty if there is no summary."""
    return b"" if summary is None else hashlib.sha256(summary.compaction_id.encode()).digest()[:8]
