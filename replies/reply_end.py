"""Makes the command that records the end of a reply, and the values for the Response. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from domain.commands import CancelReply, CompleteReply, FailReply, InterruptReply, NewItem, Prefix
from domain.errors import ModelFailed
from domain.events import ReplyRequested, Timing, Usage
from domain.items import Item, as_output, from_stored
from domain.reply_ends import joinable
from replies.output import Output
from replies.response_from_events import INTERRUPTIONS, Request
from replies.response_object import INCOMPLETE_REASONS
from replies.response_shape import Status

StopReason = Literal["client_closed", "server_stopped", "cancelled"]

PrefixesOf = Callable[[Sequence[tuple[str, Item]]], tuple[Prefix, ...]]
"""Makes the prefixes to record, from (id, item) of each output item."""

EndReply = CompleteReply | FailReply | CancelReply | InterruptReply


class ReplyEnd(Struct, frozen=True):
    """How a reply ends. `facts`: arguments of `response_of`."""

    command: EndReply
    status: Status
    facts: dict[str, Any]


def status_when_finished(finish_reason: str) -> Status:
    return "incomplete" if finish_reason in INCOMPLETE_REASONS else "completed"


def completed(
    request: Request,
    output: Output,
    *,
    author: str,
    key_id: str | None,
    model: str,
    usage: Usage,
    cost: int | None,
    finish_reason: str,
    service_tier: str | None,
    timing: Timing,
    prefixes: PrefixesOf | None = None,
) -> ReplyEnd:
    items = output.items()
    shared_prefix = request.shown.shared_prefix if isinstance(request, ReplyRequested) else None
    command = CompleteReply(
        response_id=request.response_id,
        model=model,
        author=author,
        input=request.input,
        output=tuple(NewItem(item_id=stored.item_id, item=stored.item) for stored in items),
        usage=usage,
        finish_reason=finish_reason,
        timing=timing,
        delta_lengths=output.delta_lengths,
        cost=cost,
        service_tier=service_tier,
        key_id=key_id,
        prefix_tokens=shared_prefix.tokens if shared_prefix else 0,
        prefixes=prefixes([(stored.item_id, from_stored(stored.item)) for stored in items]) if prefixes else (),
    )
    facts = {
        "model": model,
        "usage": usage,
        "finish_reason": finish_reason,
        "service_tier": service_tier,
        "cost": cost,
    }
    return ReplyEnd(command, status_when_finished(finish_reason), {**_output(command), **facts})


def failed(response_id: str, output: Output, failure: ModelFailed) -> ReplyEnd:
    command = FailReply(
        response_id=response_id,
        code=failure.code,
        message=failure.message,
        output=output.items(),
        delta_lengths=output.delta_lengths,
    )
    return _with_error(command, "failed", failure.code, failure.message)


def stopped(
    request: Request, output: Output, reason: StopReason, *, author: str, prefixes: PrefixesOf | None = None
) -> ReplyEnd:
    items = output.items()
    arguments: dict[str, Any] = {
        "response_id": request.response_id,
        "author": author,
        "input": request.input,
        "output": items,
        "delta_lengths": output.delta_lengths,
        "prefixes": prefixes([(stored.item_id, from_stored(stored.item)) for stored in joinable(items)])
        if prefixes
        else (),
    }
    if reason == "cancelled":
        cancel = CancelReply(**arguments)
        return ReplyEnd(cancel, "cancelled", _output(cancel))
    return _with_error(InterruptReply(code=reason, **arguments), "incomplete", reason, INTERRUPTIONS[reason])


def _with_error(command: EndReply, status: Status, code: str, message: str) -> ReplyEnd:
    return ReplyEnd(command, status, {**_output(command), "error": {"code": code, "message": message}})


def _output(command: EndReply) -> dict[str, Any]:
    return {"output": [as_output(stored.item_id, stored.item) for stored in command.output]}
