"""Two api processes together keep to the limits, at 200 requests a second."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from scripts.http_connection import Connection
from tests.system import System

UP = ("--no-model", "--apis", "2")
PER_SECOND = 200
CONNECTIONS = 32
ITEM = json.dumps({"items": [{"type": "message", "role": "user", "content": "hello"}]}).encode()
LEASE_SECONDS = 5


class Answered(Struct, frozen=True):
    """A request and whether it was allowed. `at`: when the request was sent, in seconds from the start."""

    at: float
    allowed: bool


@pytest.fixture
def limited_system(system: Callable[..., System], empty_stores: dict[str, str]) -> Callable[..., System]:
    def start(**limits: Any) -> System:
        return system(*UP, environment={**empty_stores, "RATE_LIMITS": json.dumps(limits)})

    return start


async def new_conversation(url: str) -> str:
    connection = await Connection.open(url)
    answer = await connection.request("POST", "/v1/conversations", b"{}")
    connection.close()
    assert answer.status == 200, answer.body
    return str(answer.json()["id"])


async def send(system: System, conversation_id: str, seconds: float) -> list[Answered]:
    """Sends PER_SECOND appends a second, over CONNECTIONS connections to the two processes."""
    urls = (system.env["API_1_URL"], system.env["API_2_URL"])
    path = f"/v1/conversations/{conversation_id}/items"
    connections = await asyncio.gather(*(Connection.open(urls[n % 2]) for n in range(CONNECTIONS)))
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    answers: list[Answered] = []
    started = time.perf_counter()

    async def request(connection: Connection) -> None:
        at = time.perf_counter() - started
        answer = await connection.request("POST", path, ITEM)
        assert answer.status in (200, 429), answer.body
        assert "ratelimit" in answer.headers
        answers.append(Answered(at, answer.status == 200))
        free.put_nowait(connection)

    async with asyncio.TaskGroup() as requests:
        for number in range(round(PER_SECOND * seconds)):
            await asyncio.sleep(max(0.0, started + number / PER_SECOND - time.perf_counter()))
            requests.create_task(request(await free.get()))
    for connection in connections:
        connection.close()
    return answers


async def follow(url: str, conversation_id: str) -> tuple[int, asyncio.StreamWriter]:
    """Returns the status, and the open connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = f"/v1/conversations/{conversation_id}/events"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
    return int((await reader.readline()).split()[1]), writer


async def test_two_processes_share_the_limits_also_after_a_kill(
    limited_system: Callable[..., System],
) -> None:
    running = limited_system(tenant={"requests": 600, "followers": 4})
    first, second = running.env["API_1_URL"], running.env["API_2_URL"]
    conversation_id = await new_conversation(first)
    streams = [await follow(url, conversation_id) for url in (second, second, second, first, first)]
    assert [status for status, _ in streams] == [200, 200, 200, 200, 429]

    killed_at = time.monotonic()
    killed = running.kill("api-2")
    while streams[-1][0] == 429:
        assert time.monotonic() - killed_at < LEASE_SECONDS + 3
        await asyncio.sleep(0.25)
        streams.append(await follow(first, conversation_id))
    for _, stream in streams:
        stream.close()
    running.wait_restarted("api-2", killed)
    running.wait_ready()
    sent_before = 1 + len(streams)

    answers = await send(running, conversation_id, 5)
    assert 600 * 0.95 <= sent_before + sum(answer.allowed for answer in answers) <= 600 * 1.05


@pytest.mark.endless
@pytest.mark.parametrize("limit", [60, 600, 6_000])
async def test_two_processes_together_keep_to_the_limit_in_each_of_three_minutes(
    limited_system: Callable[..., System], limit: int
) -> None:
    running = limited_system(tenant={"requests": limit})
    answers = await send(running, await new_conversation(running.base_url), 180)

    allowed = [answer.at for answer in answers if answer.allowed]
    for start in range(0, 120, 5):
        in_this_minute = sum(start <= at < start + 60 for at in allowed)
        assert in_this_minute <= limit * 1.05, f"{in_this_minute} from second {start} on"
    whole_minutes = [sum(minute * 60 <= at < minute * 60 + 60 for at in allowed) for minute in range(3)]
    assert all(limit * 0.95 - 1 <= count <= limit * 1.05 for count in whole_minutes), whole_minutes
