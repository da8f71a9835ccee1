"""Rebuilds views or repairs a conversation on open stores."""

import asyncio
import time
from collections.abc import Sequence
from enum import Enum, auto
from functools import partial

from infrastructure.observability.metrics import Metrics
from projections.context_view import ContextView
from projections.mongo_views import MongoViews
from projections.projector import Projector, build_projector
from projections.rebuild.rebuild import STALLED_SECONDS, Rebuild, RebuildResult
from projections.rebuild.rebuild import Report as PhaseReport
from projections.rebuild.repair import Repair, Repaired
from projections.retry_moved import retry_while_moved
from projections.view_positions import ViewPositions
from projections.views.catalog import CONTEXT, MongoView
from scripts.progress import Report
from scripts.stores import Stores

POLL_SECONDS = 0.2


class Action(Enum):
    """COMPARE makes no swap. CANCEL drops new and old collections."""

    REBUILD = auto()
    COMPARE = auto()
    ROLL_BACK = auto()
    CANCEL = auto()


async def rebuild_in_place(stores: Stores, views: Sequence[str], report: Report) -> int:
    """Empties these views, and waits until the views show the log up to its current end. Returns the position of this
    end.

    If the views do not change for STALLED_SECONDS, this process runs a projector.
    """
    head = await stores.reader.last_position()
    positions = ViewPositions(stores.database)
    for view in views:
        in_redis = view == CONTEXT
        store = ContextView(stores.redis, stores.reader, stores.database) if in_redis else MongoViews(stores.database)
        await retry_while_moved(partial(store.start_over, view, head))
    stop = asyncio.Event()
    running: asyncio.Task[None] | None = None
    last, moved_at = await positions.statuses(views), time.monotonic()
    try:
        while any(status.state != "live" or status.position < head for status in last.values()):
            await asyncio.sleep(POLL_SECONDS)
            statuses = await positions.statuses(views)
            if statuses != last:
                last, moved_at = statuses, time.monotonic()
            elif running is None and time.monotonic() - moved_at > STALLED_SECONDS:
                running = asyncio.create_task(make_projector(stores).run(stop))  # no other projector works
            report(sum(min(head, status.position) for status in last.values()), head * len(views))
            if running is not None and running.done():
                break
    finally:
        stop.set()
        if running is not None:
            await running
    return head


async def rebuild_online(
    stores: Stores, views: Sequence[MongoView], action: Action, workers: int, report: PhaseReport
) -> RebuildResult | list[MongoView] | None:
    """Returns None if there is nothing to roll back to. Raises as Rebuild does."""
    rebuild = Rebuild(
        views,
        settings=stores.settings,
        pool=stores.pool,
        database=stores.database,
        make_projector=lambda: make_projector(stores),
        workers=workers,
        report=report,
    )
    match action:
        case Action.CANCEL:
            return await rebuild.cancel()
        case Action.ROLL_BACK:
            return await rebuild.roll_back()
        case _:
            return await rebuild.run(swaps=action is Action.REBUILD)


async def repair(stores: Stores, conversation_id: str, report: Report) -> list[Repaired]:
    """Repairs a conversation in the views where it is parked. If it is parked in no view, repairs it in all views.

    The result is empty if the log does not have the conversation.
    """
    head = await stores.reader.head(conversation_id)
    if head is None:
        return []
    work = Repair(
        conversation_id,
        head,
        reader=stores.reader,
        database=stores.database,
        redis=stores.redis,
        progress=lambda version: report(min(version, head.version), head.version),
    )
    return await work.run()


async def parked_conversations(stores: Stores, views: Sequence[str]) -> dict[str, list[str]]:
    statuses = await ViewPositions(stores.database).statuses(views)
    return {view: sorted(status.parked) for view, status in statuses.items() if status.parked}


def make_projector(stores: Stores) -> Projector:
    return build_projector(
        postgres_url=stores.settings.postgres_url,
        pool=stores.pool,
        database=stores.database,
        redis=stores.redis,
        metrics=Metrics(),
    )
