"""The query API: the models, the report on projections, readiness, and a read below a root path."""

from collections.abc import Iterator
from threading import Event
from urllib.parse import quote

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS
from projections.views.partitions import ALL_PARTITIONS
from queries.main import create_app
from tests.queries.conftest import open_api, served
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def model_provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


async def test_the_list_of_models_comes_from_the_provider(settings: Settings, model_provider: ScriptedProvider) -> None:
    async with (
        served(settings.model_copy(update={"openai_base_url": model_provider.url})) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        models = (await client.models.list()).data

    assert [(model.id, model.object, model.owned_by) for model in models] == [("scripted", "model", "us")]


async def test_a_model_is_found_by_an_id_with_slashes(settings: Settings, model_provider: ScriptedProvider) -> None:
    model_provider.models = ["scripted", "org/big model/v2", "models/below-a-path"]
    async with (
        served(settings.model_copy(update={"openai_base_url": model_provider.url})) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=f"{url}/v1/models/") as http,
    ):
        listed = {model.id: model for model in (await client.models.list()).data}
        for name, found in listed.items():
            assert await client.models.retrieve(name) == found
        for path in ("org/big%20model/v2", "org%2Fbig%20model%2Fv2"):
            assert (await http.get(path)).json()["id"] == "org/big model/v2"
        assert (await http.get("below-a-path")).json()["id"] == "models/below-a-path"
        assert (await http.head("scripted")).status_code == 200
        assert model_provider.list_requests == 1
        for unknown in ("nobody", "org/big model", "x" * 5000, "\0", "%ff", "v2"[:1], ""):
            answer = await http.get(quote(unknown, safe="/"))
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
            assert f"`{unknown[:256]}`" in error["message"]
        with pytest.raises(openai.NotFoundError, match="nobody"):
            await client.models.retrieve("nobody")


async def test_no_model_is_found_without_a_provider(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/models/any")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_list_of_models_is_empty_without_a_provider(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_a_read_is_answered_below_a_root_path(settings: Settings) -> None:
    app = create_app(settings, Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/store")
        async with httpx.AsyncClient(transport=transport, base_url="http://store") as client:
            answer = await client.get("/store/v1/models")
    assert (answer.status_code, answer.json()["object"]) == (200, "list")


async def test_an_unreachable_provider_is_a_502(settings: Settings) -> None:
    async with open_api(settings.model_copy(update={"openai_base_url": "http://127.0.0.1:9/v1"})) as api:
        answer = await api.get("/v1/models")

    assert answer.status_code == 502
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("model_error", "model_error")


async def test_projections_report_how_far_each_view_is_behind(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start("a")
    await projector.catch_up()
    await write.start("b")

    data = (await api.get("/v1/projections")).json()["data"]

    assert [view["name"] for view in data] == list(ALL_VIEWS)
    shown = [view for view in data if view["name"] in MONGO_VIEWS]
    assert [(view["state"], view["position"], view["head"]) for view in shown] == [("live", 2, 4)] * len(MONGO_VIEWS)
    assert all(0 < view["lag_seconds"] < 60 for view in shown)
    assert all(view["parked"] == [] for view in data)
    assert all([partition["bucket"] for partition in view["partitions"]] == [*ALL_PARTITIONS] for view in data)
    assert all(
        (partition["state"], partition["position"]) == ("live", 2) for view in shown for partition in view["partitions"]
    )
    context = data[-1]
    assert (context["state"], context["position"]) == ("absent", 0)


async def test_the_query_api_is_ready_but_degraded_while_postgres_is_unavailable(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    await write.start("a")
    await projector.catch_up()
    await postgres.cut()

    answer = await cut_api.get("/health/ready")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"] == {
        "postgres": "failed",
        "log_writable": "failed",
        "mongodb": "ok",
        "redis": "ok",
        "partitions_held": "failed",
        "projector": "failed",
    }
