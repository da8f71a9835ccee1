"""The last request to each model on a path. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

from context.conversation_settings import Summary
from context.selection import ContextItem
from domain.events import Event, ReplyRequested, ReplyShown, SentSequence

MAX_LAST_REQUESTS = 16
"""The last request is kept for the models used most recently, at most this many."""


def sent_request(event: Event) -> tuple[str, SentSequence] | None:
    if isinstance(event, ReplyRequested | ReplyShown) and event.shown.sequence is not None:
        return event.model, event.shown.sequence
    return None


def opens_branch(event: Event) -> bool:
    """Whether the reply's answer will open a branch. Only requests on that branch are compared with this request."""
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
    """Leaves out requests that are older than the items or the summary.

    So a snapshot and the log give the same result.
    """
    from_depth = summary_depth if reaches_start else items[0].depth
    return {model: sequence for model, sequence in last_requests.items() if sequence.depth >= from_depth}


def summary_hash(summary: Summary | None) -> bytes:
    return b"" if summary is None else hashlib.sha256(summary.compaction_id.encode()).digest()[:8]
