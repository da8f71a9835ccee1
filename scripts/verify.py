"""Checks the hash chains of the event log, and compares the tables beside it, every view and every context snapshot with it.

    scripts/run verify [--conversation ID] [--wait SECONDS] [--data DIR] [--json]

First it waits until the views show the log up to its current end, at most `--wait` seconds. It can run while the store
is in use, because each group of conversations is compared as of one moment.

Exit status: 0 everything matches the log; 1 something differs, or the data is newer than this code; 2 wrong usage, no
store is found, or its settings are not valid; 3 a store is unavailable; 130 interrupted.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from infrastructure.ids import CONVERSATION, is_id
from infrastructure.observability.logs import configure_logging
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS, USAGE
from projections.views.view_position import view_statuses
from scripts.progress import Report, progress
from scripts.stores import DEFAULT_DATA, USAGE_ERROR, DataOption, JsonOption, Stores, run_on_stores
from scripts.verification.contents import Contents
from scripts.verification.differences import Difference
from scripts.verification.snapshots import Snapshots
from scripts.verification.streams import Streams
from scripts.verification.tables import Tables
from scripts.verification.views import Views, moment

_POLL_SECONDS = 0.1
_MAX_LISTED = 1_000


class Verified(Struct, kw_only=True):
    """The result of a verification.

    `position`: the end of the log at the start
    `tables`: how many rows of each table were compared, without `tenant_positions`
    `snapshots_absent`: includes snapshots that cannot be compared
    """

    ok: bool = True
    position: int = 0
    events: int = 0
    conversations: int = 0
    documents: dict[str, int] = {}
    tables: dict[str, int] = {}
    snapshots: int = 0
    snapshots_absent: int = 0
    different: int = 0
    differences: list[Difference] = []
    seconds: float = 0.0

    def add(self, difference: Difference) -> None:
        self.ok = False
        self.different += 1
        if len(self.differences) < _MAX_LISTED:
            self.differences.append(difference)

    async def add_all(self, differences: AsyncIterator[Difference]) -> None:
        async for difference in differences:
            self.add(difference)


async def verify(stores: Stores, report: Report, *, only: str | None = None, wait: float = 30.0) -> Verified:
    """Compares everything with the log, or only the conversation `only`. `wait`: seconds for the views to catch up."""
    verified = Verified(position=await stores.reader.last_position())
    for difference in await _behind(stores, verified.position, wait):
        verified.add(difference)
    streams = Streams(stores.pool, only)
    tables, contents = Tables(stores.pool, only), Contents(stores.pool)
    views, snapshots = Views(stores.database), Snapshots(stores.redis, stores.reader)
    totals = await views.totals() if only is None else None
    while True:
        async with moment(stores.database) as at:
            if not (page := await streams.next()):
                break
            for stream in page:
                verified.events += stream.rows
                if totals is not None:
                    totals.add(stream)
                for difference in stream.differences:
                    verified.add(difference)
            await verified.add_all(tables.compare(page))
            await verified.add_all(contents.compare(page))
            await verified.add_all(views.compare(page, at))
            await verified.add_all(snapshots.compare(page, at))
        verified.conversations += len(page)
        report(min(verified.events, verified.position), verified.position)
    await verified.add_all(tables.behind())
    await verified.add_all(tables.not_in_log())
    if only is None:
        await verified.add_all(contents.not_named_or_changed())
    if totals is not None:
        for difference in totals.differences():
            verified.add(difference)
        async with moment(stores.database) as at:
            await verified.add_all(views.not_in_log(at, stores.reader))
        await verified.add_all(snapshots.not_in_log())
    verified.documents = views.documents | ({} if totals is None else {USAGE: totals.count})
    verified.tables = tables.compared | contents.compared
    verified.snapshots, verified.snapshots_absent = snapshots.compared, snapshots.absent
    return verified


async def _behind(stores: Stores, position: int, wait: float) -> list[Difference]:
    """The views that do not show `position` after `wait` seconds, or show events that the log does not have."""
    positions = ViewPositions(stores.database)
    deadline = time.monotonic() + wait
    while True:
        loaded = await positions.load(ALL_VIEWS)
        check = await stores.reader.check(view_position.position for view_position in loaded)
        lost = {each.view for each in loaded if not check.has(each.log_position)}
        statuses = view_statuses(loaded)
        shown = {view: statuses[view].position if view in statuses else 0 for view in ALL_VIEWS}
        behind = {view: at for view, at in shown.items() if at < position and view not in lost}
        if not (behind or lost) or time.monotonic() >= deadline:
            differences = [Difference(view, "behind", note=f"at {at} of {position}") for view, at in behind.items()]
            note = "it shows events that the log no longer has; a projector builds it again"
            return [*differences, *(Difference(view, "stale", note=note) for view in sorted(lost))]
        await asyncio.sleep(_POLL_SECONDS)


def main(
    conversation: Annotated[str | None, typer.Option(help="Verify only this conversation.")] = None,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for the views to catch up.")] = 30.0,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Checks the hash chains of the event log, and compares the tables beside it, every view and every context snapshot with it."""
    configure_logging("verify", "ERROR", "console")
    if conversation is not None and not is_id(conversation, CONVERSATION):
        typer.echo(f"{conversation!r} is not a conversation id.", err=True)
        raise typer.Exit(USAGE_ERROR)
    started = time.monotonic()
    with progress("events verified", quiet=as_json) as report:
        verified = run_on_stores(data, lambda stores: verify(stores, report, only=conversation, wait=wait))
    verified.seconds = round(time.monotonic() - started, 2)
    typer.echo(msgspec.json.encode(verified).decode() if as_json else _as_text(verified))
    raise typer.Exit(0 if verified.ok else 1)


def _as_text(verified: Verified) -> str:
    documents = ", ".join(f"{count:,} {view}" for view, count in verified.documents.items())
    rows = ", ".join(f"{count:,} {table}" for table, count in verified.tables.items())
    lines = [str(difference) for difference in verified.differences]
    if verified.different > len(lines):
        lines.append(f"… and {verified.different - len(lines):,} more")
    lines += [
        f"{verified.events:,} events of {verified.conversations:,} conversations, up to position {verified.position:,}",
        f"beside the log: {rows}",
        f"{documents}; {verified.snapshots:,} snapshots ({verified.snapshots_absent:,} absent)",
        f"{'Everything matches the log' if verified.ok else f'{verified.different:,} differences'}, in {verified.seconds} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
