"""The metrics server. In a process without an API it also answers the health checks."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import closing
from socket import create_connection
from types import MappingProxyType

import httpx
import pytest

from infrastructure.http.metrics_server import serve_metrics
from infrastructure.observability.metrics import Metrics

PASSED = MappingProxyType({"views": True, "partitions_held": True})


async def request(
    path: str, method: str = "GET", *, checks: Mapping[str, bool] | None = PASSED, metrics: Metrics | None = None
) -> httpx.Response:
    health = None if checks is None else (lambda: checks)
    async with serve_metrics(metrics or Metrics(), 0, health) as port, httpx.AsyncClient() as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}")


async def test_the_server_answers_with_the_metrics() -> None:
    metrics = Metrics()
    metrics.projection_position.labels("conversations").set(42)
    answer = await request("/metrics", metrics=metrics)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'conversation_store_projection_position{projection="conversations"} 42.0' in answer.content


async def test_the_server_says_whether_the_process_is_ready_and_names_each_check() -> None:
    answer = await request("/health/ready")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"status": "ready", "checks": {"views": "ok", "partitions_held": "ok"}}
    answer = await request("/health/ready", checks={"views": True, "partitions_held": False})
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "checks": {"views": "ok", "partitions_held": "failed"}}


async def test_a_process_that_is_not_ready_is_live() -> None:
    assert (await request("/health/live", checks={"views": False})).status_code == 200


async def test_an_unknown_path_is_a_404_in_the_shape_of_our_errors() -> None:
    answer = await request("/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_without_checks_the_server_has_only_metrics() -> None:
    assert (await request("/metrics", checks=None)).status_code == 200
    for path in ("/health/ready", "/health/live"):
        assert (await request(path, checks=None)).status_code == 404


async def test_head_is_answered_without_a_body() -> None:
    answer = await request("/health/ready?x=1", "HEAD")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/json", b"")


async def test_the_port_is_free_after_the_server_has_ended() -> None:
    before = asyncio.all_tasks()
    async with serve_metrics(Metrics(), 0, lambda: PASSED) as port:
        with closing(create_connection(("127.0.0.1", port))):
            pass
    assert asyncio.all_tasks() == before
    async with serve_metrics(Metrics(), port, lambda: PASSED) as second_port:
        assert second_port == port


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serve_metrics(Metrics(), 0, lambda: PASSED) as port:
        with pytest.raises(OSError, match="in use"):
            await serve_metrics(Metrics(), port, lambda: PASSED).__aenter__()


async def test_a_signal_reaches_the_process_and_not_the_server() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    try:
        async with serve_metrics(Metrics(), 0, lambda: PASSED) as port, httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/health/live")
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stopped.wait(), 5)
            assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
