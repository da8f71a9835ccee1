"""POST /v1/responses/input_tokens: how many tokens a request for a reply would send, with all it is shown. Nothing is kept."""

from fastapi import Response

from commands.command_context import CommandContext
from commands.command_route import verb
from commands.create_response import check_outputs, context_of, model_of, what_is_asked
from commands.reply_target import place_of
from commands.response_body import MAX_REQUEST_BYTES, CreateResponse
from infrastructure.http import shapes

router, serves = verb("POST", "/v1/responses/input_tokens", CreateResponse, largest=MAX_REQUEST_BYTES)


@serves
async def count_input_tokens(context: CommandContext, body: CreateResponse) -> Response:
    """Answers `{object: "response.input_tokens", input_tokens}`, as this store counts them."""
    await body.check()
    place = await place_of(context, body)
    model = await model_of(body, context)
    asked = what_is_asked(body, context, place, model, (*place.taken_up, *body.items()))
    shown_context = await context_of(context, place, asked)
    check_outputs(asked, shown_context)
    return shapes.json_response({"object": "response.input_tokens", "input_tokens": shown_context.shown.tokens})
