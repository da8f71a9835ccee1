"""The header `X-Context-Left-Out`: how many items did not fit in the budget and were not shown to the model."""

from context.selection import BUDGET
from domain.commands import QueueReply, RequestReply
from domain.events import ReplyQueued, ReplyRequested

NAME = "x-context-left-out"


def left_out_header(request: RequestReply | QueueReply | ReplyRequested | ReplyQueued) -> dict[str, str]:
    """Empty if the budget left out no item, or if the request still waits for its turn."""
    if isinstance(request, QueueReply | ReplyQueued):
        return {}
    count = sum(left_out.count or 0 for left_out in request.shown.left_out if left_out.reason == BUDGET)
    return {NAME: str(count)} if count else {}
