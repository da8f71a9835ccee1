"""The store has no login. A page of another site tries every kind of access in `web_page.js`, in a real browser."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from msgspec import Struct

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.web_pages.browser import BROWSER, NO_BROWSER, WebSite
from tests.web_pages.served_store import served_store

pytestmark = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)

SECRET = "the word is hippocampus"
SCRIPT = Path(__file__).with_name("web_page.js")


class Target(Struct, frozen=True):
    """A store whose only item is SECRET. The page is told the conversation's id."""

    http: httpx.AsyncClient
    provider: ScriptedProvider
    log: Log
    metrics: Metrics
    site: WebSite
    conversation: str

    @property
    def port(self) -> int:
        port = self.http.base_url.port
        assert port is not None
        return port

    async def visited_by(self, page: str, *stores: str) -> list[dict[str, str]]:
        """Returns what the page could read."""
        path = f"/v1/conversations/{self.conversation}"
        item = {"role": "user", "content": "written = by the page"}
        target = {
            "stores": stores,
            "paths": [f"{path}/items", f"{path}/events", "/v1/conversations", "/openapi.json"],
            "writes": [
                ["/v1/responses", json.dumps({"input": "spend = tokens", "model": "scripted"})],
                [f"{path}/items", json.dumps({"items": [item]})],
                ["/v1/conversations", json.dumps({"metadata": {"written": "by = the page"}})],
                [f"{path}/end", ""],
                ["/v1/import", json.dumps({"items": [item]})],
                [path, json.dumps({"title": "written = by the page"})],
            ],
            "report": f"{self.site.origin('evil.example')}/report",
        }
        self.site.pages["/web_page.js"] = SCRIPT.read_text()
        self.site.pages["/page"] = (
            f"<!doctype html><body><script>const target = {json.dumps(target)}</script><script src=/web_page.js></script>"
        )
        report = await self.site.visit(page)
        assert report["tried"] > 100 * len(stores)
        read: list[dict[str, str]] = report["read"]
        return read

    def answers(self) -> Counter[str]:
        """How many requests were answered with each status."""
        [requests] = [
            metric for metric in self.metrics.registry.collect() if metric.name == "conversation_store_http_requests"
        ]
        counts: Counter[str] = Counter()
        for sample in requests.samples:
            if sample.name.endswith("_total"):
                counts[sample.labels["status"]] += int(sample.value)
        return counts


@pytest.fixture
async def target(settings: Settings, provider: ScriptedProvider, site: WebSite) -> AsyncIterator[Target]:
    settings = settings.model_copy(
        update={
            "openai_base_url": provider.url,
            "allowed_hosts": frozenset(),
            "cors_origins": frozenset({site.origin("friend.example")}),
        }
    )
    metrics = Metrics()
    async with served_store(settings, metrics) as http:
        body = {"items": [{"role": "user", "content": SECRET}]}
        conversation = (await http.post("/v1/conversations", json=body)).json()["id"]
        assert SECRET in (await http.get(f"/v1/conversations/{conversation}/items")).text
        yield Target(http, provider, Log(settings.postgres_url), metrics, site, conversation)


async def test_a_page_of_another_origin_reads_nothing_writes_nothing_and_spends_nothing(target: Target) -> None:
    before = (target.log.count(), len(target.provider.requests))
    answers = target.answers()
    addresses = ("127.0.0.1", "localhost", "rebound.example")
    page = f"{target.site.origin('evil.example')}/page"
    read = await target.visited_by(page, *(f"http://{address}:{target.port}" for address in addresses))
    assert read == []
    assert (target.log.count(), len(target.provider.requests)) == before
    sent = target.answers() - answers
    assert sent.keys() == {"403"}
    assert sent.total() > 200  # the requests did reach the store


async def test_after_dns_rebinding_a_page_reads_only_refusals_and_writes_nothing(target: Target) -> None:
    before = (target.log.count(), len(target.provider.requests))
    async with rebound(target) as port:
        origin = f"http://rebound.example:{port}"
        read = await target.visited_by(f"{origin}/page", origin)
    assert {json.loads(answer["text"])["error"]["code"] for answer in read} == {"host_not_allowed"}
    assert (target.log.count(), len(target.provider.requests)) == before


async def test_a_page_of_a_listed_origin_reads_and_writes_but_cannot_frame_answers(target: Target) -> None:
    page = f"{target.site.origin('friend.example')}/page"
    read = await target.visited_by(page, f"http://127.0.0.1:{target.port}")
    by_way: dict[str, str] = {}
    for answer in read:
        by_way[answer["way"]] = by_way.get(answer["way"], "") + answer["text"]
    for way in ("fetch", "fetch with a header", "XMLHttpRequest", "EventSource"):
        assert SECRET in by_way[way], way
    assert "response.created" in by_way["WebSocket"]
    assert '"object":"response"' in by_way["fetch of JSON"]
    embedded = {"an image", "a script", "a style", "a frame", "an object", "a module", "a window"}
    assert by_way.keys().isdisjoint({*embedded, "fetch without CORS", "a form", "a form of text"})
    assert target.provider.requests
    assert "conversation.deleted" in target.log.topics(target.conversation)


@asynccontextmanager
async def rebound(target: Target) -> AsyncIterator[int]:
    """Like DNS rebinding: after the page is loaded, its host name leads to the store. Yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        content = target.site.content(path)
        if content is not None:
            content_type = "text/javascript" if path.endswith(".js") else "text/html"
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n"
                f"content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
            writer.close()
            return
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", target.port)
        store_writer.write(head)
        await asyncio.gather(_copy(reader, store_writer), _copy(store_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
