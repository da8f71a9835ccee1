"""The metrics server of a process without an API."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import closing
from socket import create_connection

import httpx
import pytest

from infrastructure.http.metrics_server import serve_metrics
from infrastructure.observability.metrics import Metrics


async def request(
    ready: Callable[[], bool], path: str, method: str = "GET", metrics: Metrics | None = None
) -> httpx.Response:
    async with serve_metrics(metrics or Metrics(), 0, ready) as port, httpx.AsyncClient() as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}")


async def test_it_serves_the_metrics() -> None:
    metrics = Metrics()
    metrics.projection_position.labels("conversations").set(42)
    answer = await request(lambda: True, "/metrics", metrics=metrics)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'conversation_store_projection_position{projection="conversations"} 42.0' in answer.content


def failing_check() -> bool:
    raise OSError("no answer")


@pytest.mark.parametrize(
    ("ready", "status", "word"),
    [(lambda: True, 200, "ready"), (lambda: False, 503, "unavailable"), (failing_check, 503, "unavailable")],
)
async def test_it_says_whether_the_process_is_ready(ready: Callable[[], bool], status: int, word: str) -> None:
    answer = await request(ready, "/health/ready")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json() == {"status": word}


async def test_it_is_live_even_when_the_process_is_not_ready() -> None:
    assert (await request(lambda: False, "/health/live")).status_code == 200


async def test_another_path_is_a_404_in_the_shape_of_our_errors() -> None:
    answer = await request(lambda: True, "/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_head_is_answered_without_a_body() -> None:
    answer = await request(lambda: True, "/health/ready?x=1", "HEAD")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/json", b"")


async def test_when_the_block_ends_the_port_is_free_and_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    async with serve_metrics(Metrics(), 0, lambda: True) as port:
        with closing(create_connection(("127.0.0.1", port))):
            pass
    assert asyncio.all_tasks() == before
    async with serve_metrics(Metrics(), port, lambda: True) as second_port:
        assert second_port == port


async def test_when_the_port_is_taken_it_raises() -> None:
    async with serve_metrics(Metrics(), 0, lambda: True) as port:
        with pytest.raises(OSError, match="in use"):
            await serve_metrics(Metrics(), port, lambda: True).__aenter__()


async def test_a_signal_reaches_the_process_and_not_the_server() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    try:
        async with serve_metrics(Metrics(), 0, lambda: True) as port, httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/health/live")
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stopped.wait(), 5)
            assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
