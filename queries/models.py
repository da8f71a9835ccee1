"""GET /v1/models: what the configured provider offers, as it says itself."""

from fastapi import APIRouter, Response

from infrastructure.http.errors import ApiError
from infrastructure.http.shapes import json_response
from infrastructure.model import ModelFailed
from queries.caller import Called, reads

router = APIRouter(tags=["models"])


@reads(router, "/v1/models")
async def list_models(called: Called) -> Response:
    """The models; none where no provider is configured."""
    model = called.sources.model
    try:
        models = await model.list_models() if model.configured else []
    except ModelFailed as error:
        raise ApiError(504 if error.timed_out else 502, error.message, code=error.code) from error
    return json_response({"object": "list", "data": models})
