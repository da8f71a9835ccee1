"""Empties a view and fills it again from the log, while everything else goes on.

    python -m scripts.rebuild conversations|items|responses|context|all [--data DIR] [--json]

The view is marked first, so that no projector writes to it as it was; then it is emptied, in fenced steps, and filled from
the first event on. A projector that runs does that; where none does, this process does. Interrupted, the work goes on
wherever a projector runs, or when this is run again. Queries that need the view wait or say that it is not current.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from enum import StrEnum

import typer

from infrastructure.logging import configure_logging
from infrastructure.metrics import Metrics
from projections.positions import Place, Positions
from projections.read_models import ALL_VIEWS
from projections.runner import Runner
from scripts.progress import Report, progress
from scripts.stores import DATA, Data, Json, Stores, on_stores

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 2.0
"""How long nothing may move before this process takes the work on itself."""

INTERRUPTED = "Interrupted: a running projector goes on with it, and so does this command, run again."


class View(StrEnum):
    """What can be rebuilt."""

    CONVERSATIONS = "conversations"
    ITEMS = "items"
    RESPONSES = "responses"
    CONTEXT = "context"
    ALL = "all"


async def rebuild(stores: Stores, views: Sequence[str], report: Report) -> int:
    """Rebuilds the views; one whose rebuild was begun before is brought to its end. Returns the log's end they now show."""
    positions = Positions(stores.database)
    head = await stores.reader.last_position()
    found = await positions.load(views)
    for view in views:
        if view not in found or found[view].state == "live":
            await positions.reset(view, head)
    runner = Runner(
        postgres_url=stores.settings.postgres_url,
        reader=stores.reader,
        database=stores.database,
        redis=stores.redis,
        metrics=Metrics(),
        views=views,
    )
    stop = asyncio.Event()
    running: asyncio.Task[None] | None = None
    seen: dict[str, Place] = {}
    moved_at = time.monotonic()
    try:
        while len(seen) < len(views) or any(place.state != "live" or place.position < head for place in seen.values()):
            await asyncio.sleep(LOOK_SECONDS)
            places = await positions.load(views)
            if places != seen:
                seen, moved_at = places, time.monotonic()
            elif running is None and time.monotonic() - moved_at > PATIENCE_SECONDS:
                running = asyncio.create_task(runner.run(stop))
            report(sum(min(head, max(0, place.position)) for place in seen.values()), head * len(views))
            if running is not None and running.done():
                break
    finally:
        stop.set()
        if running is not None:
            await running
    return head


def main(view: View, data: Data = DATA, as_json: Json = False) -> None:
    """Empties a view and fills it again from the log, while everything else goes on."""
    configure_logging("rebuild", "WARNING", "console")
    views = ALL_VIEWS if view is View.ALL else (str(view),)
    started = time.monotonic()
    with progress(f"rebuilding {view}", quiet=as_json) as report:
        head = on_stores(data, lambda stores: rebuild(stores, views, report), interrupted=INTERRUPTED)
    seconds = round(time.monotonic() - started, 2)
    if as_json:
        typer.echo(json.dumps({"views": views, "position": head, "seconds": seconds}))
    else:
        typer.echo(f"{', '.join(views)}: rebuilt up to position {head} in {seconds} s")


if __name__ == "__main__":
    typer.run(main)
