"""The HTTP requests that several benchmarks make, each of which must succeed."""

import asyncio
import time
from collections.abc import Mapping
from statistics import median

import msgspec

from scripts.http_connection import Answer, Connection

TEXT = "A message of eighty characters, which is about what people write to one another."
APPEND = msgspec.json.encode({"items": [{"type": "message", "role": "user", "content": TEXT}]})
CATCH_UP_TIMEOUT_SECONDS = 600.0
_REQUEST_TIMEOUT_SECONDS = 120.0
_BEGINNERS = 20
_WARM_UPS = 5


class RequestFailed(Exception):
    """The store did not do what it was asked, so there is nothing to measure."""


async def request(
    connection: Connection, method: str, path: str, body: bytes = b"", *, patient: bool = False
) -> Answer:
    """The answer to a request; `patient` asks a busy store (503) again. Raises RequestFailed where it is no success, and OSError."""
    deadline = time.monotonic() + _REQUEST_TIMEOUT_SECONDS
    answer = await connection.request(method, path, body, seconds=_REQUEST_TIMEOUT_SECONDS)
    while patient and answer.status == 503 and connection.is_open and time.monotonic() < deadline:
        await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
        answer = await connection.request(method, path, body, seconds=_REQUEST_TIMEOUT_SECONDS)
    if answer.status != 200:
        raise RequestFailed(f"{method} {path}: {answer.status} {answer.body[:300].decode()}")
    return answer


async def begin_conversations(base_url: str, count: int, body: bytes = b"{}") -> list[str]:
    """Starts empty conversations; their ids."""
    todo = iter(range(count))

    async def some() -> list[str]:
        connection = await Connection.open(base_url)
        idents = [(await request(connection, "POST", "/v1/conversations", body)).json()["id"] for _ in todo]
        connection.close()
        return idents

    return [ident for part in await asyncio.gather(*(some() for _ in range(_BEGINNERS))) for ident in part]


async def import_conversation(base_url: str, items: int) -> str:
    """Makes a conversation of so many short messages, and returns its id once all views show it."""
    connection = await Connection.open(base_url)
    line = msgspec.json.encode({"items": [{"role": "user", "content": TEXT}] * items})
    report = (await request(connection, "POST", "/v1/import", line)).json()
    if report["failed"]:
        raise RequestFailed(f"the import failed: {report['errors']}")
    await caught_up(base_url)
    [newest] = (await request(connection, "GET", "/v1/conversations?limit=1")).json()["data"]
    connection.close()
    return str(newest["id"])


async def caught_up(base_url: str) -> None:
    """Waits until all views show all there is: what is measured next has the machine to itself. Raises RequestFailed."""
    connection = await Connection.open(base_url)
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
    views = (await request(connection, "GET", "/v1/projections")).json()["data"]
    while any(view["position"] < view["head"] for view in views):
        if time.monotonic() > deadline:
            raise RequestFailed("the projector does not catch up")
        await asyncio.sleep(0.1)
        views = (await request(connection, "GET", "/v1/projections")).json()["data"]
    connection.close()


async def timed_floors(
    base_url: str, floor_url: str, paths: Mapping[str, str], kind: str, seconds: float
) -> dict[str, float]:
    """`timed_gets` of the floor app (see there for the kinds), once it holds what the store answers to each of these."""
    store, floor = await Connection.open(base_url), await Connection.open(floor_url)
    floors = {}
    for number, (name, path) in enumerate(paths.items()):
        await request(floor, "PUT", f"/floor/{kind}-{number}", (await request(store, "GET", path)).body)
        floors[name] = f"/floor/{kind}-{number}/{kind}"
    store.close()
    floor.close()
    return await timed_gets(floor_url, floors, seconds)


async def timed_gets(base_url: str, paths: Mapping[str, str], seconds: float) -> dict[str, float]:
    """The median milliseconds of each named GET: one request at a time, by turns, for so many seconds each."""
    connection = await Connection.open(base_url)
    for path in list(paths.values()) * _WARM_UPS:
        await request(connection, "GET", path)
    taken: dict[str, list[float]] = {name: [] for name in paths}
    end = time.perf_counter() + seconds * len(paths)
    while time.perf_counter() < end:
        for name, path in paths.items():
            began = time.perf_counter()
            await request(connection, "GET", path)
            taken[name].append((time.perf_counter() - began) * 1000)
    connection.close()
    return {name: median(milliseconds) for name, milliseconds in taken.items()}
