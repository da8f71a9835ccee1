"""`/docs` works offline. The page and the files that it loads come from this store."""

import re
import subprocess
from collections.abc import AsyncIterator
from threading import Event

import httpx
import pytest

from infrastructure.http.connections import Connections
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries
from scripts import gateway
from tests.system import System
from tests.web_pages.browser import BROWSER, NO_BROWSER


@pytest.fixture(params=["gateway", "queries"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway, or the query API. Neither needs Postgres, MongoDB or Redis here."""
    if request.param == "gateway":
        app = gateway.create_app(Settings(), Metrics(), Event(), Connections())
    else:
        app = queries.create_app(Settings(), Metrics(), Event())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_the_page_names_only_served_urls_of_this_store(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "//" not in page.text.replace("</", "").replace("<!-- ", "")
    urls = re.findall(r"""(?:href|src|url)(?:=|: )["']([^"']+)""", page.text)
    assert sorted(urls) == ["/docs/favicon.png", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"]
    for url in urls:
        answer = await api.get(url)
        assert answer.status_code == 200
        assert len(answer.content) > 1000


async def test_the_style_loads_no_other_file_and_the_script_is_swagger_ui(api: httpx.AsyncClient) -> None:
    style = (await api.get("/docs/swagger-ui.css")).text
    assert not re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import", style)
    script = await api.get("/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in script.text


@pytest.mark.clients
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_a_browser_without_a_network_shows_every_operation(store: System) -> None:
    assert BROWSER is not None
    offline = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", offline, "--dump-dom")
    command = (BROWSER, *options, f"{store.base_url}/docs")
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    paths = httpx.get(f"{store.base_url}/openapi.json").json()["paths"]
    shown = re.findall(r'data-path="([^"]+)"', page)
    assert sorted(shown) == sorted(path for path, operations in paths.items() for _ in operations)
