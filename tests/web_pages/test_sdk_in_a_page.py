"""OpenAI's SDK for Node runs unchanged in a web page of a listed origin, whether the store needs API keys or not."""

import json
from pathlib import Path

import pytest

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.access.made_keys import store_new_key
from tests.clients.recipe import CannotInstall, Environment
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.web_pages.browser import BROWSER, NO_BROWSER, WebSite
from tests.web_pages.served_store import served_store

pytestmark = [pytest.mark.clients, pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)]

PAGE = Path(__file__).with_name("sdk_page.js")
HELLO = "Hello, world!"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = Environment("openai_node", tmp_path_factory.mktemp("sdk"))
    try:
        environment.install()
    except CannotInstall as error:
        pytest.skip(str(error))
    return environment.directory / "node_modules"


@pytest.mark.parametrize("auth_mode", ["none", "keys"])
async def test_the_sdk_works_only_in_a_page_of_a_listed_origin(
    settings: Settings, provider: ScriptedProvider, site: WebSite, modules: Path, auth_mode: str
) -> None:
    site.directory = modules
    changed = {
        "openai_base_url": provider.url,
        "cors_origins": frozenset({site.origin("friend.example")}),
        "auth_mode": auth_mode,
    }
    key = store_new_key(settings.postgres_url)
    log = Log(settings.postgres_url)
    async with served_store(settings.model_copy(update=changed), Metrics()) as http:
        target = {"store": str(http.base_url).rstrip("/"), "apiKey": key.secret}
        site.pages["/sdk_page.js"] = PAGE.read_text()
        site.pages["/page"] = (
            f"<!doctype html><body><script>const target = {json.dumps(target)}</script>"
            "<script type=module src=/sdk_page.js></script>"
        )
        refused = await site.visit(f"{site.origin('evil.example')}/page")
        assert refused.keys() == {"error"}
        assert "Connection error" in refused["error"]
        assert (log.count(), provider.requests) == (0, [])

        report = await site.visit(f"{site.origin('friend.example')}/page")
    assert "error" not in report, report["error"]
    assert report["requestId"].startswith("req_")
    assert report["etag"] == '"5"'
    assert (report["text"], report["deltas"], report["streamed"]) == (HELLO, ["Hello", ", ", "world", "!"], HELLO)
    assert report["stale"] == [412, "version_mismatch"]
    assert report["missing"] == [404, "not_found"]
    assert report["items"] == ["Hello?", HELLO, "Again!", HELLO]
    assert report["deleted"] is True
