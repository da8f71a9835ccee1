"""Rebuilds views from the log while users read them, or repairs one conversation.

    scripts/run rebuild VIEW [--dry-run|--rollback|--cancel] [--workers N] [--data DIR] [--json]
    scripts/run rebuild --conversation ID [--data DIR] [--json]

VIEW is conversations, items, responses, feedback, search, usage, context or all.

New collections are filled, compared with the live ones, and swapped in. A difference does not prevent the swap, because
the new ones were made from the log. The old ones are kept for `--rollback`, until the next rebuild or `--cancel`.
`--dry-run` only compares, and drops the new ones. An interrupted rebuild resumes when it is run again.

Context snapshots are removed, and made again when they are next needed. A view that no projector has started yet, or
that has lost a position, gets no new collections, but is started over. Reads of this view answer 503 until it is
filled. With `--dry-run`, `--rollback` or `--cancel`, such a view is skipped.

`--conversation` rebuilds one conversation in the views where it is parked. If it is parked in no view, it is rebuilt
in all views.

Exit status: 0 done; 1 a conversation is still parked, another repair has claimed it, there is nothing to roll back to,
another rebuild runs, the log does not have the conversation, a view started over or a build was dropped meanwhile, the
data is newer than this code, or a dry run found differences; 2 wrong usage, no store is found, or its settings are not
valid; 3 a store is unavailable, or a backfill process failed; 130 interrupted.
"""

import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from msgspec import Struct

from infrastructure.ids import CONVERSATION, is_id
from infrastructure.observability.logs import configure_logging
from projections.rebuild.backfill_workers import BackfillFailed
from projections.rebuild.compare import Comparison
from projections.rebuild.rebuild import AnotherRebuild, RebuildResult
from projections.rebuild.repair import Repaired
from projections.rebuild.view_builds import BuildGone
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS
from scripts.progress import Report, progress
from scripts.rebuilding.steps import Action, parked_conversations, rebuild_in_place, rebuild_online, repair
from scripts.stores import (
    DEFAULT_DATA,
    STORE_UNAVAILABLE,
    USAGE_ERROR,
    DataOption,
    JsonOption,
    Stores,
    run_on_stores,
)

REBUILD_INTERRUPTED = (
    "Interrupted. Run this again to finish, or with --cancel to drop new collections. "
    "Reads of a view that was started over answer 503 until it is filled. Other views can be read as before."
)
CONTEXT_INTERRUPTED = (
    "Interrupted. Some old context snapshots may be left. Run this again to remove them all. "
    "Snapshots that are missing are made again when they are next needed."
)
REPAIR_INTERRUPTED = "Interrupted. The conversation may be parked until you run this again."


class View(StrEnum):
    CONVERSATIONS = "conversations"
    ITEMS = "items"
    RESPONSES = "responses"
    FEEDBACK = "feedback"
    SEARCH = "search"
    USAGE = "usage"
    CONTEXT = "context"
    ALL = "all"


class _Result(Struct):
    """What `--json` prints for a view. `views`: the views that were not skipped."""

    views: Sequence[str]
    position: int = 0
    rebuilt: RebuildResult | None = None
    dropped: Sequence[str] = ()
    parked: dict[str, list[str]] = {}
    seconds: float = 0.0
    events_per_second: float | None = None


class _PhaseReport:
    def __init__(self, report: Report, *, quiet: bool) -> None:
        self._report = report
        self._quiet = quiet
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase and not self._quiet:
            typer.echo(phase, err=True)
        self._phase = phase
        self._report(done, total)


def main(
    view: Annotated[View | None, typer.Argument(help="The view to rebuild.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Repair only this conversation.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare, then drop the new collections.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Swap back to the collections from before the last rebuild.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Drop unfinished builds, and the old collections kept for --rollback.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Backfill processes.")] = os.cpu_count() or 2,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Rebuilds views from the log while users read them, or repairs one conversation."""
    configure_logging("rebuild", "WARNING", "console")
    if (view is None) == (conversation is None):
        _exit("Name either a view, or a conversation with --conversation.", USAGE_ERROR)
    if conversation is not None and not is_id(conversation, CONVERSATION):
        _exit(f"{conversation!r} is not a conversation id.", USAGE_ERROR)
    if dry_run + rollback + cancel > 1 or (conversation is not None and dry_run + rollback + cancel):
        _exit("Use only one of --dry-run, --rollback and --cancel, and only with a view.", USAGE_ERROR)
    action = (
        Action.COMPARE if dry_run else Action.ROLL_BACK if rollback else Action.CANCEL if cancel else Action.REBUILD
    )
    if view is View.CONTEXT and action is not Action.REBUILD:
        _exit(
            "Context snapshots have no second build. Run `rebuild context` without --dry-run, --rollback and --cancel.",
            USAGE_ERROR,
        )
    if view is not None:
        _rebuild_views(view, action, workers, data, as_json=as_json)
    elif conversation is not None:
        _repair_conversation(conversation, data, as_json=as_json)


def _exit(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)


def _rebuild_views(view: View, action: Action, workers: int, data: Path, *, as_json: bool) -> None:
    views = ALL_VIEWS if view is View.ALL else (str(view),)
    started = time.monotonic()
    try:
        with progress(f"rebuilding {view}", quiet=as_json) as report:
            phases = _PhaseReport(report, quiet=as_json)
            result = run_on_stores(
                data,
                lambda stores: _run(stores, views, action, workers=workers, phases=phases, report=report),
                interrupted=CONTEXT_INTERRUPTED if view is View.CONTEXT else REBUILD_INTERRUPTED,
            )
    except AnotherRebuild:
        _exit("Another rebuild runs. Wait for it, or interrupt it.", 1)
    except BuildGone:
        _exit("A view started over meanwhile, or another process dropped its new collection. Run this again.", 1)
    except BackfillFailed as error:
        _exit(f"{error}. Run this again to resume.", STORE_UNAVAILABLE)
    if result is None:
        _exit("There is nothing to roll back to.", 1)
    result.seconds = round(time.monotonic() - started, 2)
    if result.rebuilt and result.rebuilt.events:
        result.events_per_second = round(result.rebuilt.events / result.rebuilt.backfill_seconds)
    typer.echo(msgspec.json.encode(result).decode() if as_json else _as_text(result, action))
    differs = result.rebuilt is not None and any(comparison.different for comparison in result.rebuilt.compared)
    raise typer.Exit(1 if result.parked or (differs and action is Action.COMPARE) else 0)


async def _run(
    stores: Stores, views: Sequence[str], action: Action, *, workers: int, phases: _PhaseReport, report: Report
) -> _Result | None:
    """Returns None if there is nothing to roll back to."""
    statuses = await ViewPositions(stores.database).statuses(MONGO_VIEWS)
    started = {name for name, status in statuses.items() if status.state != "absent"}
    online = [name for name in MONGO_VIEWS if name in views and name in started]
    in_place = [name for name in views if name not in online] if action is Action.REBUILD else []
    result = _Result(in_place)
    if in_place:
        result.position = await rebuild_in_place(stores, in_place, report)
    if online:
        done = await rebuild_online(stores, online, action, workers, phases)
        if done is None:
            return None
        if isinstance(done, RebuildResult):
            result.rebuilt = done
            result.position = max(comparison.position for comparison in done.compared)
            compared = [comparison.view for comparison in done.compared]
            result.views = [name for name in views if name in compared or name in in_place]
        else:
            result.views = result.dropped = done
    result.parked = await parked_conversations(stores, views)
    return result


def _as_text(result: _Result, action: Action) -> str:
    lines = [f"{', '.join(result.views) or 'no view'}: up to position {result.position} in {result.seconds} s"]
    if action is Action.CANCEL:
        lines = [f"dropped: {', '.join(result.dropped) or 'nothing'}"]
    if result.rebuilt is not None:
        lines += [_comparison_text(comparison) for comparison in result.rebuilt.compared]
        if result.events_per_second:
            lines.append(f"backfill: {result.events_per_second:,} events/s")
        if result.rebuilt.swap_seconds is not None:
            lines.append(
                f"swapped in {1000 * result.rebuilt.swap_seconds:.0f} ms; the old collections are kept for --rollback"
            )
    lines += [f"{view}: parked: {', '.join(conversations)}" for view, conversations in result.parked.items()]
    return "\n".join(lines)


def _comparison_text(comparison: Comparison) -> str:
    outcome = "not compared, because conversations are parked"
    if comparison.different:
        outcome = f"{comparison.different:,} differ: {', '.join(comparison.listed)}"
    elif comparison.live_digest:
        outcome = f"equal, {comparison.live_digest[:16]}"
    return f"{comparison.view}: {comparison.documents:,} documents at position {comparison.position}, {outcome}"


def _repair_conversation(conversation_id: str, data: Path, *, as_json: bool) -> None:
    started = time.monotonic()
    with progress(f"versions of {conversation_id} repaired", quiet=as_json) as report:
        repaired = run_on_stores(
            data, lambda stores: repair(stores, conversation_id, report), interrupted=REPAIR_INTERRUPTED
        )
    if not repaired:
        _exit(f"The log has no conversation {conversation_id}.", 1)
    if as_json:
        views = [_repaired_fields(in_view) for in_view in repaired]
        seconds = round(time.monotonic() - started, 2)
        fields = {"conversation_id": conversation_id, "views": views, "seconds": seconds}
        typer.echo(msgspec.json.encode(fields).decode())
    else:
        for in_view in repaired:
            typer.echo(_repaired_text(in_view))
    raise typer.Exit(0 if all(in_view.succeeded for in_view in repaired) else 1)


def _repaired_fields(repaired: Repaired) -> dict[str, Any]:
    fields: dict[str, Any] = {"view": repaired.view, "outcome": repaired.outcome}
    if (parked := repaired.parked) is not None:
        fields |= {"position": parked.position, "version": parked.version, "type": parked.topic}
        fields |= {"error": parked.error, "message": parked.message}
    return fields


_OUTCOME_TEXTS: dict[str, str] = {
    "repaired": "repaired",
    "deleted": "the conversation is deleted",
    "released": "another repair finished first, the conversation was deleted meanwhile, or the view started over",
    "lost": "another repair has claimed the conversation",
    "skipped": "no projector has started the view yet",
}


def _repaired_text(repaired: Repaired) -> str:
    if (parked := repaired.parked) is None:
        return f"{repaired.view}: {_OUTCOME_TEXTS[repaired.outcome]}"
    event = f"version {parked.version} ({parked.topic}, position {parked.position})"
    return f"{repaired.view}: still parked: {event} cannot be applied: {parked.message or parked.error}"


if __name__ == "__main__":
    typer.run(main)
