"""The header `X-Context-Left-Out` of a Response: how many items of the conversation the model was not shown, because they did not fit in the budget."""

from context.selection import BUDGET
from domain.commands import QueueReply, RequestReply
from domain.events import ReplyQueued, ReplyRequested

NAME = "x-context-left-out"


def left_out_header(request: RequestReply | QueueReply | ReplyRequested | ReplyQueued) -> dict[str, str]:
    """The header. Nothing if no item was left out for the budget, or if the request still waits for its turn."""
    if isinstance(request, QueueReply | ReplyQueued):
        return {}
    count = sum(left_out.count or 0 for left_out in request.shown.left_out if left_out.reason == BUDGET)
    return {NAME: str(count)} if count else {}
