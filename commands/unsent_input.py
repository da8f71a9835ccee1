"""Refuses input that cannot be sent to the model."""

from context.assembly import Context
from context.choice import ReplyRequest
from context.rendering.orphans import call_key, is_output
from infrastructure.http.errors import ApiError


def check_outputs(reply_request: ReplyRequest, model_context: Context) -> None:
    """Raises ApiError (400) for a tool output whose call is missing, or if no item at all can be sent."""
    for item_id, item in reply_request.input:
        if is_output(item) and call_key(item) is not None and item_id not in model_context.sent_ids:
            call_id = str(item.get("call_id"))[:64]
            raise ApiError(400, f"No tool call found for tool output with call_id {call_id}.", param="input")
    if reply_request.input and not model_context.sent_ids:
        message = "No item of `input` can be sent to the model by itself: a call needs its output, and a reasoning item needs the item after it."
        raise ApiError(400, message, code="invalid_value", param="input")
