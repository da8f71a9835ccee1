"""GET /v1/models: the models that the provider lists, with what this store knows of each."""

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
    """The models. The list is empty if no provider is configured."""
    provider, models = context.dependencies.provider, context.dependencies.models
    listed = await provider.list_models() if provider.configured else []
    data = [{**model, **_facts(models.facts(model["id"]))} for model in listed]
    return json_response({"object": "list", "data": data})


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """The window in tokens, the encoding that counts them, and the price of 1,000,000 tokens in US dollars, if it is known."""
    price = None
    if facts.input_price is not None and facts.output_price is not None:
        cached = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        price = {"input": facts.input_price, "cached_input": cached, "output": facts.output_price}
    return {"window": facts.window, "encoding": facts.encoding, "price": price}
