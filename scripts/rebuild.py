"""Makes views anew from the log beside those that are read, and swaps them; or brings one conversation back in all views.

    python -m scripts.rebuild conversations|items|responses|usage|context|all [--dry-run|--rollback|--cancel] [--workers N]
    python -m scripts.rebuild --conversation ID                         [--data DIR] [--json]

A new collection is filled by several processes, brought up to date, compared with the one that is read, both at one position, and
takes its place in one transaction: users read on all the while, and notice nothing. The old one is kept for `--rollback`,
until the next rebuild or `--cancel`. `--dry-run` compares only. Interrupted, it goes on when it is run again, or `--cancel` drops
what was begun. What differs is said; the log is right. Context snapshots are not made anew but dropped: each comes back from the log when
it is needed. A view that no projector has begun with yet is filled in its place.

A conversation is brought back where it is parked, or made anew in all views where it is not: see `projections/repair.py`.

Ends with 0 when all is rebuilt, 1 when something is parked still, nothing is kept, another rebuild is under way, there is no such
conversation, or a dry run finds a difference, 2 when it was asked wrongly, 3 when a store is away.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from enum import Enum, StrEnum, auto
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer
from msgspec import Struct

from infrastructure.ids import CONVERSATION, is_id
from infrastructure.observability.logs import configure_logging
from infrastructure.observability.metrics import Metrics
from projections.context_view import ContextView
from projections.mongo_views import MongoViews
from projections.projector import Projector
from projections.rebuild.backfill import BackfillFailed
from projections.rebuild.rebuild import AnotherRebuild, Rebuild, Rebuilt, patiently
from projections.rebuild.rebuild import Report as PhaseReport
from projections.rebuild.view_builds import BuildGone
from projections.repair import Repair, Repaired
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS, CONTEXT, MONGO_VIEWS, MongoView
from scripts.progress import Report, progress
from scripts.stores import DEFAULT_DATA, STORE_UNAVAILABLE, USAGE_ERROR, DataOption, JsonOption, Stores, run_on_stores

if TYPE_CHECKING:
    from projections.views.view_position import ViewStatus

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 2.0
"""How long nothing may move before this process takes the work on itself."""

INTERRUPTED = "Interrupted: users read the views as they were. Run this again and it goes on, or with --cancel."
PARKED_STILL = "Interrupted: the conversation is parked until this is run again."


class View(StrEnum):
    """What can be rebuilt."""

    CONVERSATIONS = "conversations"
    ITEMS = "items"
    RESPONSES = "responses"
    USAGE = "usage"
    CONTEXT = "context"
    ALL = "all"


class Does(Enum):
    """What is done with the other generation of views."""

    REBUILD = auto()
    COMPARE = auto()
    ROLLBACK = auto()
    CANCEL = auto()


async def rebuild(stores: Stores, views: Sequence[str], report: Report) -> int:
    """Begins anew with these views, in their place, and waits until they show the log's end as it is now, which it returns."""
    head = await stores.reader.last_position()
    database = stores.database
    for view in views:
        sink = ContextView(stores.redis, stores.reader, database) if view == CONTEXT else MongoViews(database)
        await patiently(partial(sink.begin_anew, view, head))
    runner = Projector(
        postgres_url=stores.settings.postgres_url,
        pool=stores.pool,
        database=database,
        redis=stores.redis,
        metrics=Metrics(),
    )
    stop = asyncio.Event()
    running: asyncio.Task[None] | None = None
    seen: dict[str, ViewStatus] = {}
    moved_at = time.monotonic()
    try:
        while not seen or any(it.state != "live" or it.position < head for it in seen.values()):
            await asyncio.sleep(LOOK_SECONDS)
            found = await ViewPositions(database).statuses(views)
            if found != seen:
                seen, moved_at = found, time.monotonic()
            elif running is None and time.monotonic() - moved_at > PATIENCE_SECONDS:
                running = asyncio.create_task(runner.run(stop))
            report(sum(min(head, it.position) for it in seen.values()), head * len(views))
            if running is not None and running.done():
                break
    finally:
        stop.set()
        if running is not None:
            await running
    return head


async def repair(stores: Stores, conversation_id: str, report: Report) -> list[Repaired]:
    """Brings a conversation back in the views that have it parked, or in all; what became of each. None: the log has none such."""
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


async def parked(stores: Stores, views: Sequence[str]) -> dict[str, list[str]]:
    """The conversations that these views have parked, by view."""
    found = await ViewPositions(stores.database).statuses(views)
    return {view: sorted(it.parked) for view, it in found.items() if it.parked}


async def beside(
    stores: Stores, views: Sequence[MongoView], does: Does, workers: int, report: PhaseReport
) -> Rebuilt | list[MongoView] | None:
    """Makes the views anew beside those that are read, or undoes that. None: nothing was kept that could be brought back."""
    work = Rebuild(
        views,
        settings=stores.settings,
        pool=stores.pool,
        database=stores.database,
        redis=stores.redis,
        workers=workers,
        report=report,
    )
    match does:
        case Does.CANCEL:
            return await work.cancel()
        case Does.ROLLBACK:
            return await work.roll_back()
        case _:
            return await work.run(swaps=does is Does.REBUILD)


def main(
    view: Annotated[View | None, typer.Argument(help="What is rebuilt.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Only this one, in every view that has it parked.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare, and drop what was made.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Swap back to what was read before.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop what was begun or kept.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that fill.")] = os.cpu_count() or 2,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Makes views anew from the log beside those that are read, and swaps them; or brings one conversation back."""
    configure_logging("rebuild", "WARNING", "console")
    if (view is None) == (conversation is None):
        _misused("Name a view, or a conversation with --conversation.")
    if conversation is not None and not is_id(conversation, CONVERSATION):
        _misused(f"{conversation!r} is no conversation's id.")
    if dry_run + rollback + cancel > 1 or (conversation is not None and dry_run + rollback + cancel):
        _misused("--dry-run, --rollback and --cancel are for views, and go one at a time.")
    does = Does.COMPARE if dry_run else Does.ROLLBACK if rollback else Does.CANCEL if cancel else Does.REBUILD
    if view is View.CONTEXT and does is not Does.REBUILD:
        _misused("Context snapshots have no other generation.")
    if view is not None:
        _rebuild_views(view, does, workers, data, as_json=as_json)
    elif conversation is not None:
        _repair_conversation(conversation, data, as_json=as_json)


def _misused(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(USAGE_ERROR)


class _Done(Struct):
    """What was done, for whoever asked."""

    views: Sequence[str]
    position: int = 0
    rebuilt: Rebuilt | None = None
    dropped: Sequence[str] = ()
    parked: dict[str, list[str]] = {}
    seconds: float = 0.0
    events_per_second: float | None = None


def _rebuild_views(view: View, does: Does, workers: int, data: Path, *, as_json: bool) -> None:
    asked = ALL_VIEWS if view is View.ALL else (str(view),)
    phase = ""

    async def work(stores: Stores) -> _Done | None:
        done = _Done(asked)
        begun = await ViewPositions(stores.database).statuses(MONGO_VIEWS)
        shown = [each for each in MONGO_VIEWS if each in asked and each in begun]
        rest = [each for each in asked if each not in shown] if does is Does.REBUILD else []
        if rest:
            done.position = await rebuild(stores, rest, report)
        if shown:
            found = await beside(stores, shown, does, workers, tell)
            if found is None:
                return None
            if isinstance(found, Rebuilt):
                done.rebuilt = found
                done.position = max(each.position for each in found.compared)
            else:
                done.dropped = found
        done.parked = await parked(stores, asked)
        return done

    def tell(now: str, done: int, total: int) -> None:
        nonlocal phase
        if now != phase and not as_json:
            typer.echo(now, err=True)
        phase = now
        report(done, total)

    started = time.monotonic()
    try:
        with progress(f"rebuilding {view}", quiet=as_json) as report:
            done = run_on_stores(data, work, interrupted=INTERRUPTED)
    except AnotherRebuild as error:
        typer.echo("Another rebuild is under way: wait for it, or interrupt it.", err=True)
        raise typer.Exit(1) from error
    except BuildGone as error:
        typer.echo("The views began anew meanwhile. Run this again.", err=True)
        raise typer.Exit(1) from error
    except BackfillFailed as error:
        typer.echo(f"A process that filled {error}. Run this again and it goes on.", err=True)
        raise typer.Exit(STORE_UNAVAILABLE) from error
    if done is None:
        typer.echo("Nothing is kept that could be brought back.", err=True)
        raise typer.Exit(1)
    done.seconds = round(time.monotonic() - started, 2)
    if done.rebuilt and done.rebuilt.events:
        done.events_per_second = round(done.rebuilt.events / done.rebuilt.filling_seconds)
    typer.echo(msgspec.json.encode(done).decode() if as_json else _in_words(done, does))
    differs = does is Does.COMPARE and done.rebuilt and any(each.different for each in done.rebuilt.compared)
    raise typer.Exit(1 if done.parked or differs else 0)


def _in_words(done: _Done, does: Does) -> str:
    lines = [f"{', '.join(done.views)}: up to position {done.position} in {done.seconds} s"]
    if does is Does.CANCEL:
        lines = [f"dropped: {', '.join(done.dropped) or 'nothing'}"]
    if done.rebuilt is not None:
        for each in done.rebuilt.compared:
            said = f"equal, {each.digest[:16]}" if not each.different else f"{each.different:,} differ: {each.named}"
            said = said if each.digest else "not compared beside parked conversations"
            lines.append(f"{each.view}: {each.documents:,} documents at position {each.position}, {said}")
        if done.events_per_second:
            lines.append(f"filled at {done.events_per_second:,} events/s")
        if done.rebuilt.swap_seconds is not None:
            lines.append(
                f"swapped in {1000 * done.rebuilt.swap_seconds:.0f} ms; what was read before is kept for --rollback"
            )
    lines += [f"{name}: parked: {', '.join(idents)}" for name, idents in done.parked.items()]
    return "\n".join(lines)


def _repair_conversation(conversation_id: str, data: Path, *, as_json: bool) -> None:
    started = time.monotonic()
    with progress(f"repairing {conversation_id}, versions", quiet=as_json) as report:
        repaired = run_on_stores(data, lambda stores: repair(stores, conversation_id, report), interrupted=PARKED_STILL)
    if not repaired:
        typer.echo(f"The log has no conversation {conversation_id}.", err=True)
        raise typer.Exit(1)
    seconds = round(time.monotonic() - started, 2)
    if as_json:
        told = {"conversation_id": conversation_id, "views": [_told(each) for each in repaired], "seconds": seconds}
        typer.echo(json.dumps(told))
    else:
        for each in repaired:
            typer.echo(_as_text(each))
    raise typer.Exit(0 if all(each.is_well for each in repaired) else 1)


def _told(repaired: Repaired) -> dict[str, Any]:
    told: dict[str, Any] = {"view": repaired.view, "outcome": repaired.outcome}
    if (why := repaired.parked) is not None:
        told |= {"position": why.position, "version": why.version, "type": why.topic}
        told |= {"error": why.error, "message": why.message}
    return told


_SAID: dict[str, str] = {
    "repaired": "repaired",
    "deleted": "the conversation was deleted; nothing of it is shown",
    "released": "brought back by another meanwhile, or made anew with its view",
    "lost": "another repair has taken it over",
    "skipped": "the view is about to be made anew",
}


def _as_text(repaired: Repaired) -> str:
    if (why := repaired.parked) is None:
        return f"{repaired.view}: {_SAID[repaired.outcome]}"
    event = f"version {why.version} ({why.topic}, position {why.position})"
    return f"{repaired.view}: parked still: {event} can not be applied: {why.message or why.error}"


if __name__ == "__main__":
    typer.run(main)
