"""GET /v1/models and /v1/models/{id}: the provider's models, with what this store knows about each."""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from context.models import Models
from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from queries.query_context import QueryContext
from queries.query_route import query_route

router = APIRouter(tags=["models"])

MAX_NAME_LENGTH = 256
"""The error repeats at most this many characters of an unknown name."""


class ModelPrice(Struct, frozen=True, kw_only=True):
    """The price of 1,000,000 tokens, in US dollars."""

    input: float
    cached_input: float
    output: float


class Model(Struct, frozen=True, kw_only=True, tag_field="object", tag="model"):
    """A model of the provider.

    `window`: the size of its context window, in tokens of `encoding`. `output`: the most tokens of an answer; null if
    it is not known. `accepts`: whether the model takes `image`, `file`, `audio`, `tools` and `custom_tools`; those that
    are not known are absent. `price`: null if it is not known. `unknown`: which of `window` and `price` are not known.
    If the window is not known, `window` is the size that the store assumes.
    """

    id: str
    created: int
    owned_by: str
    window: int
    output: int | None
    encoding: str
    accepts: Mapping[str, bool]
    price: ModelPrice | None
    unknown: list[Literal["window", "price"]]


class ModelList(Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """All models of the provider."""

    data: list[Model]


@query_route(router, "/v1/models", answer=ModelList, answer_headers=(), errors=(502, 504))
async def list_models(context: QueryContext) -> Response:
    """The models. The list is empty if no provider is configured."""
    provider, models = context.dependencies.provider, context.dependencies.models
    listed = await provider.list_models() if provider.configured else []
    return json_response(ModelList(data=[_model(model, models) for model in listed]))


@query_route(router, "/v1/models/{model_id:path}", answer=Model, answer_headers=(), errors=(502, 504))
async def get_model(context: QueryContext, model_id: str) -> Response:
    """The model. The id may contain slashes. If the provider lists the model with a path before its name, the path may be left out."""
    model = await context.dependencies.provider.find_model(model_id)
    if model is None:
        message = f"There is no model `{model_id[:MAX_NAME_LENGTH]}`. `GET /v1/models` lists those that exist."
        raise ApiError(404, message, code="model_not_found", param="model")
    return json_response(_model(model, context.dependencies.models))


def _model(listed: Mapping[str, Any], models: Models) -> Model:
    facts = models.facts(listed["id"])
    price = None
    if facts.input_price is not None and facts.output_price is not None:
        cached = facts.input_price if facts.cached_input_price is None else facts.cached_input_price
        price = ModelPrice(input=facts.input_price, cached_input=cached, output=facts.output_price)
    return Model(
        id=listed["id"],
        created=listed["created"],
        owned_by=listed["owned_by"],
        window=facts.window,
        output=facts.output,
        encoding=facts.encoding,
        accepts=facts.accepts,
        price=price,
        unknown=models.unknown(listed["id"]),
    )
