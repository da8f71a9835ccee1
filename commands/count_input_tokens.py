"""POST /v1/responses/input_tokens: how many tokens a request for a reply would send, with all it is shown. Nothing is kept."""

from fastapi import Response

from commands.command_context import Caller
from commands.command_route import verb
from commands.create_response import check_outputs, context_of, model_of, what_is_asked
from commands.reply_target import place_of
from commands.response_body import LARGEST_REQUEST, CreateResponse
from infrastructure.http import shapes

router, serves = verb("POST", "/v1/responses/input_tokens", CreateResponse, largest=LARGEST_REQUEST)


@serves
async def count_input_tokens(called: Caller, body: CreateResponse) -> Response:
    """Answers `{object: "response.input_tokens", input_tokens}`, as this store counts them."""
    await body.check()
    place = await place_of(called, body)
    model = await model_of(body, called)
    asked = what_is_asked(body, called, place, model, (*place.taken_up, *body.items()))
    context = await context_of(called, place, asked)
    check_outputs(asked, context)
    return shapes.json_response({"object": "response.input_tokens", "input_tokens": context.shown.tokens})
