"""POST /v1/responses/input_tokens: how many tokens a request for a reply would send, with all it is shown. Nothing is kept."""

from fastapi import Response

from commands.carry_out import Caller
from commands.create_response import context_of, model_of
from commands.placing import place_of
from commands.response_body import LARGEST_REQUEST, CreateResponse
from commands.verb import verb
from infrastructure.http import shapes

router, serves = verb("POST", "/v1/responses/input_tokens", CreateResponse, largest=LARGEST_REQUEST)


@serves
async def count_input_tokens(called: Caller, body: CreateResponse) -> Response:
    """Answers `{object: "response.input_tokens", input_tokens}`, as this store counts them."""
    body.check()
    place = await place_of(called, body)
    _, context = await context_of(body, called, place, await model_of(body, called), (*place.taken_up, *body.items()))
    return shapes.json_response({"object": "response.input_tokens", "input_tokens": context.shown.tokens})
