"""GET /v1/models: what the configured provider offers, as it says itself, and what is known here of each."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from context.models import ModelFacts
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["models"])


@query_route(router, "/v1/models")
async def list_models(context: QueryContext) -> Response:
    """The models; none where no provider is configured."""
    provider, models = context.sources.provider, context.sources.models
    offered = await provider.list_models() if provider.configured else []
    return json_response({"object": "list", "data": [{**each, **_known(models.facts(each["id"]))} for each in offered]})


def _known(facts: ModelFacts) -> dict[str, Any]:
    """The window in tokens, what counts them, and the price in US dollars for 1,000,000 tokens where it is known."""
    price = None
    if facts.input_price is not None and facts.output_price is not None:
        cached = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        price = {"input": facts.input_price, "cached_input": cached, "output": facts.output_price}
    return {"window": facts.window, "encoding": facts.encoding, "price": price}
