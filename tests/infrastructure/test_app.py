"""`make_app`: each route is served, documented and measured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from infrastructure.http.app import make_app
from infrastructure.http.door import NoLogin
from infrastructure.http.shapes import json_response
from infrastructure.http.web_pages import WebPages
from infrastructure.limits.limiter import Limiter
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings


@asynccontextmanager
async def no_dependencies(_: Starlette) -> AsyncIterator[None]:
    yield


async def answer_id(request: Request) -> Response:
    if request.path_params["thing_id"] == "broken":
        raise ValueError("content")
    return json_response({"id": request.path_params["thing_id"]})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def app(metrics: Metrics) -> Starlette:
    router = APIRouter(tags=["things"])
    router.add_api_route("/things/{thing_id}", answer_id, methods=["GET"], name="get_thing")
    return make_app(
        "Things",
        [router],
        lifespan=no_dependencies,
        metrics=metrics,
        authenticator=NoLogin(),
        limiter=Limiter(Settings(), metrics),
        web_pages=WebPages(has_login=False, allowed_hosts=["things"]),
    )


@pytest.fixture
async def api(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://things") as client:
        yield client


async def test_a_route_is_served_for_get_and_head(api: httpx.AsyncClient) -> None:
    answer = await api.get("/things/1")
    assert (answer.status_code, answer.json()) == (200, {"id": "1"})
    assert (await api.head("/things/1")).status_code == 200


async def test_a_route_is_described_in_the_openapi_document(app: Starlette, api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    assert document == app.state.openapi()
    assert {path: set(operations) for path, operations in document["paths"].items()} == {"/things/{thing_id}": {"get"}}
    assert document["paths"]["/things/{thing_id}"]["get"]["tags"] == ["things"]


async def test_a_request_is_measured_under_the_template_of_its_route(api: httpx.AsyncClient, metrics: Metrics) -> None:
    await api.get("/things/1")
    labels = {"method": "GET", "route": "/things/{thing_id}", "status": "200"}
    assert metrics.registry.get_sample_value("conversation_store_http_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_url"),
        ("GET", "/things/1/", 404, "unknown_url"),
        ("POST", "/docs", 405, "method_not_allowed"),
        ("GET", "/things/broken", 500, "internal_error"),
    ],
)
async def test_an_error_has_a_code_and_the_request_id(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await api.request(method, path, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine")
    assert answer.json()["error"]["code"] == code
    assert "content" not in answer.text
