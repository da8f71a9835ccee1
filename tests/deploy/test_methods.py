"""Every path answers with the same `Allow` at each app alone and behind both gateways."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from commands.main import create_app as create_command_app
from infrastructure.http.connections import Connections
from infrastructure.http.protocol import bounded_protocol
from infrastructure.http.served_paths import SERVED, allowed_methods
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries.main import create_app as create_query_app
from scripts.gateway import create_app as create_gateway
from tests.deploy.nginx import NGINX, NO_NGINX, running_nginx

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
IDS = {
    "conversation_id": f"conv_{1:032x}",
    "item_id": f"msg_{1:032x}",
    "response_id": f"resp_{1:032x}",
    "completion_id": f"chatcmpl-{1:032x}",
    "model_id": "a/b",
    "key_id": f"key_{1:032x}",
    "file_id": f"file-{1:032x}",
}
PATHS = [template.replace(":path}", "}").format(**IDS) for template in SERVED]

# No request of these tests reaches a database.


def command_app(settings: Settings) -> ASGIApp:
    return create_command_app(settings, Metrics(), threading.Event())


def query_app(settings: Settings) -> ASGIApp:
    return create_query_app(settings, Metrics(), threading.Event())


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", http=bounded_protocol(Connections()), ws="none"
    )
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        assert running.is_alive()
        threading.Event().wait(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        running.join()


@asynccontextmanager
async def client_of(server: str, directory: Path, settings: Settings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of one app alone (commands, queries) or of a gateway (gateway, nginx)."""
    settings = settings or Settings()
    if server == "nginx":
        if NGINX is None:
            pytest.skip(NO_NGINX)
        with (
            served(command_app(settings)) as commands_port,
            served(query_app(settings)) as queries_port,
            running_nginx(directory, commands_port, queries_port) as port,
        ):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        return
    apps = {
        "gateway": lambda settings: create_gateway(settings, Metrics(), threading.Event(), Connections()),
        "commands": command_app,
        "queries": query_app,
    }
    transport = httpx.ASGITransport(apps[server](settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("server", ["commands", "queries", "gateway", "nginx"])
async def test_a_method_that_a_path_lacks_is_a_405_with_the_allowed_methods(server: str, tmp_path: Path) -> None:
    async with client_of(server, tmp_path) as client:
        for path in PATHS:
            allowed = allowed_methods(path)
            for method in {*METHODS} - {*allowed.split(", ")} | {"OPTIONS"}:
                answer = await client.request(method, path)
                where = f"{method} {path} at {server}"
                assert answer.headers["allow"] == allowed, where
                assert answer.headers["x-request-id"], where
                if method == "OPTIONS":
                    assert (answer.status_code, answer.content) == (204, b""), where
                    continue
                assert answer.status_code == 405, where
                assert answer.headers["x-should-retry"] == "false"
                if method != "HEAD":
                    assert answer.json()["error"]["code"] == "method_not_allowed", where
                    assert answer.json()["error"]["message"].endswith(f"It allows {allowed}."), where


@pytest.mark.parametrize("server", ["commands", "queries", "gateway", "nginx"])
async def test_an_unknown_path_is_a_404_for_every_method(server: str, tmp_path: Path) -> None:
    async with client_of(server, tmp_path) as client:
        for method in METHODS:
            answer = await client.request(method, "/v1/completions")
            assert (answer.status_code, answer.headers.get("allow")) == (404, None), method
            if method != "HEAD":
                assert answer.json()["error"]["code"] == "unknown_url"
                assert "POST /v1/responses" in answer.json()["error"]["message"]


@pytest.mark.parametrize("server", ["gateway", "nginx"])
async def test_a_gateway_passes_on_compressed_answers(server: str, tmp_path: Path) -> None:
    async with client_of(server, tmp_path) as client:
        path = "/docs/swagger-ui.css"
        plain = await client.get(path, headers={"Accept-Encoding": "identity"})
        compressed = await client.get(path, headers={"Accept-Encoding": "gzip"})
        assert (compressed.headers["content-encoding"], compressed.content) == ("gzip", plain.content)
        assert "content-encoding" not in plain.headers
        assert int(compressed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
        assert compressed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"


async def test_options_star_at_the_python_gateway_names_every_method() -> None:
    with served(create_gateway(Settings(), Metrics(), threading.Event(), Connections())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = (await reader.read()).decode()
        writer.close()
    assert head.startswith("HTTP/1.1 204 ")
    assert "allow: DELETE, GET, HEAD, OPTIONS, POST\r\n" in head
