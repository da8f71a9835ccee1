"""The projector as a process that is killed or stopped."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from infrastructure.embedded.directory import free_port
from infrastructure.settings import Settings
from projections.views.catalog import ALL_VIEWS
from tests.projections.history import write_many_kinds
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.writer import Writer


@contextmanager
def projector_process(settings: Settings, port: int = 0) -> Iterator[subprocess.Popen[str]]:
    urls = {name: getattr(settings, name.lower()) for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")}
    process = subprocess.Popen(
        [sys.executable, "-m", "projections.main"],
        env={**os.environ, **urls, "METRICS_PORT": str(port), "LOG_LEVEL": "INFO"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_projector_that_is_killed_repeatedly_writes_every_event_once(write: Writer, world: World) -> None:
    for _ in range(10):
        await write_many_kinds(write)
    for kill_position in (1, 300):
        with projector_process(world.settings) as process:

            async def has_reached(position: int = kill_position) -> bool:
                return any(status.position >= position for status in (await world.statuses()).values())

            await world.until(has_reached)
            process.kill()
            process.wait()
        await write_many_kinds(write)
    with projector_process(world.settings):
        await world.until(world.caught_up)
    assert await world.matches_log()


async def test_a_projector_serves_health_and_metrics_and_ends_cleanly_on_sigterm(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    port = free_port()
    with projector_process(world.settings, port) as process:
        await world.until(world.caught_up)

        async def is_ready() -> bool:
            return await asyncio.to_thread(_status, port) == 200

        async def shows_the_end() -> bool:
            metrics = await asyncio.to_thread(_get, port, "metrics")
            return all(line in metrics for line in expected)

        # The process learns of its own write to MongoDB a moment after this test can read it.
        await world.until(is_ready)
        head = await world.reader.last_position()
        expected = [
            f"conversation_store_projection_head {head}.0",
            *(f'conversation_store_projection_position{{projection="{view}"}} {head}.0' for view in ALL_VIEWS),
        ]
        await world.until(shows_the_end)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert "projector_stopped" in output
    assert "error.type" not in output
    assert await world.matches_log()


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


def _status(port: int) -> int:
    try:
        _get(port, "health/ready")
    except urllib.error.HTTPError as error:
        return error.code
    return 200
