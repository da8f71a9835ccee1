"""GET /v1/models: what the configured provider offers, as it says itself."""

from fastapi import APIRouter, Response

from infrastructure.http.app import reads
from infrastructure.http.shapes import json_response
from queries.caller import Called

router = APIRouter(tags=["models"])


@reads(router, "/v1/models")
async def list_models(called: Called) -> Response:
    """The models; none where no provider is configured."""
    model = called.sources.model
    return json_response({"object": "list", "data": await model.list_models() if model.configured else []})
