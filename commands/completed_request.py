"""Completes a request with the model and the parameters of an earlier request."""

from typing import Any

import msgspec
from msgspec import Struct

from commands.reply_input import TakenInput
from commands.reply_target import ReplyTarget
from commands.response_body import CreateResponse
from commands.response_schemas import check_schemas
from infrastructure.http.body import validate_body
from replies.response_from_events import Request

_NOT_REPEATED = ("background", "retry", "regenerate")


class CompletedRequest(Struct, frozen=True):
    body: CreateResponse
    target: ReplyTarget
    taken: TakenInput


def merged(body: CreateResponse, requested: Request | None) -> CreateResponse:
    """`body`, with the earlier request's model and parameters where it gives none, except `_NOT_REPEATED`.

    `requested`: None if there is nothing to take over. Raises ApiError (400) if the result is not valid.
    """
    complete = body
    if requested is not None:
        parameters: dict[str, Any] = msgspec.json.decode(requested.parameters)
        recorded = {name: value for name, value in parameters.items() if name not in _NOT_REPEATED}
        given = body.model_dump(mode="json", exclude_unset=True)
        fields = {"model": requested.model, **recorded, **given}
        complete = validate_body(CreateResponse, msgspec.json.encode(fields))
    complete.check_parameters()
    check_schemas(complete.schemas())
    return complete
