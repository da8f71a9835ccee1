"""The HTTP requests that several benchmarks send."""

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
_START_CONNECTIONS = 20
_IMPORTED_TEXTS = 20_000
_WARM_UPS = 5


class RequestFailed(Exception):
    """The store did not do what a benchmark needs, so there is nothing to measure."""


async def request(
    connection: Connection, method: str, path: str, body: bytes = b"", *, retry_busy: bool = False
) -> Answer:
    """Sends a request. Raises OSError, and RequestFailed if the status is not 200.

    `retry_busy`: retries while the store answers 503.
    """
    deadline = time.monotonic() + _REQUEST_TIMEOUT_SECONDS
    answer = await connection.request(method, path, body, seconds=_REQUEST_TIMEOUT_SECONDS)
    while retry_busy and answer.status == 503 and connection.is_open and time.monotonic() < deadline:
        await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
        answer = await connection.request(method, path, body, seconds=_REQUEST_TIMEOUT_SECONDS)
    if answer.status != 200:
        raise RequestFailed(f"{method} {path}: {answer.status} {answer.body[:300].decode()}")
    return answer


async def start_conversations(base_url: str, count: int, body: bytes = b"{}") -> list[str]:
    remaining = iter(range(count))

    async def start() -> list[str]:
        connection = await Connection.open(base_url)
        ids = [(await request(connection, "POST", "/v1/conversations", body)).json()["id"] for _ in remaining]
        connection.close()
        return ids

    ids_by_connection = await asyncio.gather(*(start() for _ in range(_START_CONNECTIONS)))
    return [conversation_id for ids in ids_by_connection for conversation_id in ids]


async def import_conversation(base_url: str, items: int, policy: Mapping[str, int] | None = None) -> str:
    """Imports a conversation with this many messages. Returns its id when all views show it. Raises RequestFailed.

    All but the newest 20,000 messages are only one word, because an imported line has at most 8 MB.
    """
    connection = await Connection.open(base_url)
    older = [{"role": "user", "content": "Yes."}] * (items - _IMPORTED_TEXTS)
    newest = [{"role": "user", "content": TEXT}] * min(items, _IMPORTED_TEXTS)
    line = msgspec.json.encode({"items": older + newest, "context_policy": policy or {}})
    report = (await request(connection, "POST", "/v1/import", line)).json()
    if report["failed"]:
        raise RequestFailed(f"the import failed: {report['errors']}")
    await wait_for_views(base_url)
    [newest] = (await request(connection, "GET", "/v1/conversations?limit=1")).json()["data"]
    connection.close()
    return str(newest["id"])


async def wait_for_views(base_url: str) -> None:
    """Waits until all views show the whole log. Raises RequestFailed."""
    connection = await Connection.open(base_url)
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
    views = (await request(connection, "GET", "/v1/projections")).json()["data"]
    while any(view["head"] is None or view["position"] < view["head"] for view in views):
        if time.monotonic() > deadline:
            raise RequestFailed(f"the views did not reach the log's end within {CATCH_UP_TIMEOUT_SECONDS:.0f} s")
        await asyncio.sleep(0.1)
        views = (await request(connection, "GET", "/v1/projections")).json()["data"]
    connection.close()


async def timed_floors(
    base_url: str, floor_url: str, paths: Mapping[str, str], kind: str, seconds: float
) -> dict[str, float]:
    """Saves the store's answer to each path in the floor app, then measures the floor app.

    `kind`: the last part of the floor app's path.
    """
    store, floor = await Connection.open(base_url), await Connection.open(floor_url)
    floors = {}
    for number, (name, path) in enumerate(paths.items()):
        await request(floor, "PUT", f"/floor/{kind}-{number}", (await request(store, "GET", path)).body)
        floors[name] = f"/floor/{kind}-{number}/{kind}"
    store.close()
    floor.close()
    return await timed_gets(floor_url, floors, seconds)


async def timed_gets(base_url: str, paths: Mapping[str, str], seconds: float) -> dict[str, float]:
    """The median time of a GET of each path in milliseconds, by name. Takes `seconds` for each path."""
    connection = await Connection.open(base_url)
    for path in list(paths.values()) * _WARM_UPS:
        await request(connection, "GET", path)
    times: dict[str, list[float]] = {name: [] for name in paths}
    end = time.perf_counter() + seconds * len(paths)
    while time.perf_counter() < end:
        for name, path in paths.items():
            started = time.perf_counter()
            await request(connection, "GET", path)
            times[name].append((time.perf_counter() - started) * 1000)
    connection.close()
    return {name: median(milliseconds) for name, milliseconds in times.items()}
