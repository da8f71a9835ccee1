"""How long after its answer an append is visible in MongoDB: p50 and p99, at a rate the projector should keep up with."""

import asyncio
import time
from bisect import bisect_left
from statistics import quantiles

from infrastructure import mongodb
from infrastructure.mongodb import Database
from infrastructure.settings import Settings
from projections.positions import Positions
from scripts.benchmarks.client import post
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import BODY, MANY
from scripts.keepalive import Connection

RATES = (100, 500)
VIEWS = ("conversations", "items")
LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 60.0


class NotVisible(Exception):
    """What was appended did not become visible within PATIENCE_SECONDS."""


async def run(board: Board, base_url: str, settings: Settings, idents: list[str], seconds: float) -> None:
    """Adds one run at each rate to the board: the rate that was reached, and the lag behind it."""
    client = mongodb.connect(settings)
    try:
        for rate in RATES:
            database = mongodb.database(client, settings)
            answered = await _append(base_url, idents, rate, seconds, database)
            name = f"commit to visible, {rate} appends/s"
            cuts = quantiles(answered.lags_ms, n=100, method="inclusive")
            board.add(name, answered.per_second, p50_ms=cuts[49], p99_ms=cuts[98])
    finally:
        await client.close()


class _Answered:
    def __init__(self) -> None:
        self.at: list[tuple[int, float]] = []
        """(position, when its answer was there)."""
        self.per_second = 0.0
        self.lags_ms: list[float] = []


async def _append(base_url: str, idents: list[str], rate: float, seconds: float, database: Database) -> _Answered:
    answered = _Answered()
    seen: list[tuple[int, float]] = []
    looking = asyncio.create_task(_look(database, seen))
    connections = await asyncio.gather(*(Connection.open(base_url) for _ in range(MANY)))
    begin = time.perf_counter()
    numbers = iter(range(max(2, round(rate * seconds))))

    async def repeat(connection: Connection) -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            path = f"/v1/conversations/{idents[number % len(idents)]}/items"
            answer = await post(connection, path, BODY.encode())
            answered.at.append((int(answer.headers["x-position"]), time.perf_counter()))
        connection.close()

    try:
        await asyncio.gather(*map(repeat, connections))
        answered.per_second = len(answered.at) / (time.perf_counter() - begin)
        last = max(position for position, _ in answered.at)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not seen or seen[-1][0] < last:
                if looking.done():
                    await looking
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise NotVisible(f"not visible after {PATIENCE_SECONDS:.0f} s") from error
    finally:
        looking.cancel()
    positions = [position for position, _ in seen]
    # What was visible before its answer came has no lag.
    answered.lags_ms = [max(0.0, seen[bisect_left(positions, it)][1] - at) * 1000 for it, at in answered.at]
    return answered


async def _look(database: Database, seen: list[tuple[int, float]]) -> None:
    """Notes each position that both views have come to, and when that was first seen."""
    positions = Positions(database)
    while True:
        places = await positions.load(VIEWS)
        position = min((place.position for place in places.values()), default=-1)
        if len(places) == len(VIEWS) and (not seen or position > seen[-1][0]):
            seen.append((position, time.perf_counter()))
        await asyncio.sleep(LOOK_SECONDS)
