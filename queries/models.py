"""GET /v1/models and /v1/models/{id}: the models that the provider lists, with what this store knows of each."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from context.models import ModelFacts, Models
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["models"])

MAX_NAME_LENGTH = 256
"""How much of an unknown model's name its error repeats."""


@query_route(router, "/v1/models")
async def list_models(context: QueryContext) -> Response:
    """The models. The list is empty if no provider is configured."""
    provider, models = context.dependencies.provider, context.dependencies.models
    listed = await provider.list_models() if provider.configured else []
    return json_response({"object": "list", "data": [_with_facts(model, models) for model in listed]})


@query_route(router, "/v1/models/{model_id:path}")
async def get_model(context: QueryContext, model_id: str) -> Response:
    """The model. Its id may have slashes, and may leave out a path before the name if it is listed with one."""
    model = await context.dependencies.provider.find_model(model_id)
    if model is None:
        message = f"There is no model `{model_id[:MAX_NAME_LENGTH]}`. `GET /v1/models` lists those that exist."
        raise ApiError(404, message, code="model_not_found", param="model")
    return json_response(_with_facts(model, context.dependencies.models))


def _with_facts(model: Mapping[str, Any], models: Models) -> dict[str, Any]:
    return {**model, **_facts(models.facts(model["id"]))}


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """The window in tokens, the encoding that counts them, and the price of 1,000,000 tokens in US dollars, if it is known."""
    price = None
    if facts.input_price is not None and facts.output_price is not None:
        cached = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        price = {"input": facts.input_price, "cached_input": cached, "output": facts.output_price}
    return {"window": facts.window, "encoding": facts.encoding, "price": price}
