"""Makes the Response that a reply's events describe. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.events import (
    InputItem,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnd,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
)
from domain.items import CUT_OFF
from infrastructure.ids import minted_seconds
from replies import stream_events
from replies.output import MESSAGE
from replies.response_object import INCOMPLETE_REASONS, response_object
from replies.response_shape import Status
from replies.stream_events import StreamEvent

Request = ReplyQueued | ReplyRequested
"""A reply that waits for its turn has only a ReplyQueued."""

INTERRUPTIONS: Mapping[str, str] = {
    "client_closed": "The client hung up.",
    "server_stopped": "The server was stopped.",
    "process_died": "The process that ran it went away.",
}
"""The views hold these texts, so a change needs a rebuild."""


def response_of(
    requested: Request,
    conversation_id: str | None,
    status: Status,
    *,
    metadata: Mapping[str, str] | None = None,
    **facts: Any,
) -> bytes:
    """The JSON text of a Response.

    `facts`: more arguments of `response_object`. `metadata` replaces the metadata of the request.
    """
    parameters: dict[str, Any] = msgspec.json.decode(requested.parameters)
    if metadata is not None:
        parameters["metadata"] = metadata
    arguments: dict[str, Any] = {
        "model": requested.model,
        "output": [],
        "usage": None,
        "error": None,
        **facts,
    }
    return response_object(
        response_id=requested.response_id,
        conversation_id=conversation_id,
        created_at=minted_seconds(requested.response_id),
        status=status,
        parameters=parameters,
        renderer=requested.renderer,
        **arguments,
    )


def opening_events(requested: Request, conversation_id: str | None) -> list[StreamEvent]:
    """The first events of a reply's stream. A waiting reply has no `response.in_progress`."""
    queued = in_progress = None
    if isinstance(requested, ReplyQueued) or requested.queued or is_background(requested):
        queued = response_of(requested, conversation_id, "queued")
    if isinstance(requested, ReplyRequested):
        in_progress = response_of(requested, conversation_id, "in_progress")
    return stream_events.opened(in_progress, queued)


def is_background(requested: Request) -> bool:
    return bool(msgspec.json.decode(requested.parameters).get("background"))


def status_of(end: ReplyEnd | None) -> Status:
    """None: the reply was requested and has not ended."""
    match end:
        case None:
            return "in_progress"
        case ReplyCompleted():
            return "incomplete" if end.finish_reason in INCOMPLETE_REASONS else "completed"
        case ReplyFailed():
            return "failed"
        case ReplyCancelled():
            return "cancelled"
        case ReplyInterrupted():
            return "incomplete"


def error_of(end: ReplyFailed | ReplyCancelled | ReplyInterrupted) -> dict[str, str] | None:
    """{code, message}, or None for a cancelled reply."""
    match end:
        case ReplyFailed():
            return {"code": end.code, "message": end.message}
        case ReplyInterrupted():
            return {"code": end.code, "message": INTERRUPTIONS.get(end.code, "The reply was cut off.")}
        case ReplyCancelled():
            return None


def partial_output(end: ReplyFailed | ReplyCancelled | ReplyInterrupted) -> tuple[InputItem, ...]:
    """The output of a reply that did not complete, without the items that joined the conversation."""
    if isinstance(end, ReplyFailed) and end.partial_output and not end.output:
        # Old events hold only the text, without an item id. The id is made from the response's id.
        item = stream_events.with_parts(MESSAGE, [("output_text", end.partial_output)], CUT_OFF)
        item_id = f"msg_{end.response_id.rpartition('_')[2]}"
        return (InputItem(item_id=item_id, item=msgspec.json.encode(item)),)
    return end.output
