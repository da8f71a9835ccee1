"""What assembling a context costs as a conversation grows: under one budget, with its snapshot in Redis and from the log alone.

The times are of one context, in milliseconds, without HTTP and in a scratch database: a conversation of LONG items beside one of
SHORT, by turns. From the log each is assembled by a process that has counted nothing yet.
"""

import time
from statistics import median, quantiles

from context.assembly import Contexts, ReplyRequest
from context.history_backwards import RecentItems
from context.models import Models
from context.snapshot_from_log import refill
from context.snapshots import key, snapshots_of
from domain.commands import DescribeConversation
from domain.events import ContextPolicy
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import make_pool
from scripts.benchmarks.figures import Board
from scripts.benchmarks.flat import started, work

SHORT = 1_000
BUDGET = 2_000
TIMES = 500
MODEL = "any"


class Assembling:
    """Grows its conversations once; `run` adds one run to the board, `delete` takes the snapshots away."""

    def __init__(self, settings: Settings, postgres_url: str, long: int) -> None:
        self._settings = settings
        self._url = postgres_url
        self._long = max(long, SHORT)
        self._conversations: dict[int, tuple[str, int]] = {}

    async def prepare(self) -> None:
        log = EventLog(self._url, Metrics())
        log.open()
        for items in (SHORT, self._long):
            ident = await started(log, items)
            described = await log.append(work(ident, DescribeConversation(context_policy=ContextPolicy(budget=BUDGET))))
            self._conversations[items] = ident, described.version
        await log.close()

    async def run(self, board: Board) -> None:
        pool, kept = make_pool(self._url), redis.connect(self._settings)
        await pool.open()
        models, reader = Models(self._settings), EventReader(pool)
        try:
            for ident, version in self._conversations.values():
                await refill(reader, kept, DEFAULT.tenant, ident, version)
            with_redis = Contexts(reader, models, snapshots_of(kept))
            for how in ("with its snapshot", "from the log"):
                times: dict[int, list[float]] = {items: [] for items in self._conversations}
                for _ in range(TIMES):
                    for items, (ident, version) in self._conversations.items():
                        contexts = with_redis if how == "with its snapshot" else Contexts(reader, models, _none)
                        times[items].append(await _assemble(contexts, ident, version))
                floor = f"context of {SHORT:,} items {how}"
                for items, taken in times.items():
                    cuts = quantiles(taken, n=100, method="inclusive")
                    board.add(
                        f"context of {items:,} items {how}",
                        median(taken),
                        unit="ms",
                        floor=None if items == SHORT else floor,
                        p50_ms=cuts[49],
                        p99_ms=cuts[98],
                    )
        finally:
            await kept.aclose()
            await pool.close()

    async def delete(self) -> None:
        """Deletes what was put in Redis."""
        kept = redis.connect(self._settings)
        for ident, _ in self._conversations.values():
            await kept.delete(key(DEFAULT.tenant, ident))
        await kept.aclose()


async def _none(_tenant: str, _conversation_id: str, _room: int) -> RecentItems | None:
    """Redis is away."""
    return None


async def _assemble(contexts: Contexts, ident: str, version: int) -> float:
    """Milliseconds of one context."""
    question = {"type": "message", "role": "user", "content": "And what do you say to that?"}
    asked = ReplyRequest(model=MODEL, parameters={}, input=[(mint("msg"), question)])
    began = time.perf_counter()
    await contexts.assemble(DEFAULT.tenant, ident, version, asked)
    return (time.perf_counter() - began) * 1000
