"""The last request of each model on a path. The next request of that model is compared with it. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

from context.conversation_settings import Summary
from context.selection import ContextItem
from domain.events import Event, ReplyRequested, ReplyShown, SentSequence

MAX_LAST_REQUESTS = 16
"""Of how many models the last request is known: of those that were used last."""


def sent_request(event: Event) -> tuple[str, SentSequence] | None:
    """The model and the sequence of a request, also of one that was sent again with another context.

    None for other events, for requests that recorded no sequence, and for chat completions.
    """
    if isinstance(event, ReplyRequested | ReplyShown) and event.shown.sequence is not None:
        return event.model, event.shown.sequence
    return None


def comparable_requests(
    last_requests: Mapping[str, SentSequence], items: Sequence[ContextItem], *, reaches_start: bool, summary_depth: int
) -> dict[str, SentSequence]:
    """Those that were made since the oldest of `items`, a path's newest items. If these reach the start: since the summary, or all.

    So the last requests are the same wherever the items come from. A snapshot may have older requests; in the log they were not read.
    """
    from_depth = summary_depth if reaches_start else items[0].depth
    return {model: sequence for model, sequence in last_requests.items() if sequence.depth >= from_depth}


def summary_hash(summary: Summary | None) -> bytes:
    """As in SentSequence. Empty if there is no summary."""
    return b"" if summary is None else hashlib.sha256(summary.compaction_id.encode()).digest()[:8]
