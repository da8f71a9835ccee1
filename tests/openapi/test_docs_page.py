"""`/docs` works offline: the page and all that it loads come from this store."""

import re
from collections.abc import AsyncIterator
from threading import Event

import httpx
import pytest

from infrastructure.http.connections import Connections
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries
from scripts import gateway


@pytest.fixture(params=["gateway", "queries"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway in this process; and the query API, to which nginx sends these paths. No store is needed."""
    if request.param == "gateway":
        app = gateway.create_app(Settings(), Event(), Connections())
    else:
        app = queries.create_app(Settings(), Metrics(), Event())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client:
        yield client


async def test_the_page_names_only_urls_of_this_store_and_all_of_them_are_served(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "//" not in page.text.replace("</", "").replace("<!-- ", "")
    urls = re.findall(r"""(?:href|src|url)(?:=|: )["']([^"']+)""", page.text)
    assert sorted(urls) == ["/docs/favicon.png", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"]
    for url in urls:
        answer = await api.get(url)
        assert answer.status_code == 200
        assert len(answer.content) > 1000


async def test_the_script_and_the_style_load_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    style = (await api.get("/docs/swagger-ui.css")).text
    assert not re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import", style)
    script = await api.get("/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in script.text
