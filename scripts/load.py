"""Loads conversations into the running store, through its command side.

    python -m scripts.load chitchat            7,168 conversations of people, 258,145 messages
    python -m scripts.load FILE.jsonl          {"metadata": {}, "title": …, "instructions": …, "items": […]} a line

It may be killed, and any process of the store may be: every request is repeatable, so the next run goes on where this one
stopped, and nothing is there twice. A file is known by its name and its lines: the same line in a file of the same name is the same
conversation. `--check` compares counts and digests of all messages between the source, the log and MongoDB.

Ends with 0; 1 when the check finds a difference; 2 when a line, or what was asked for, is not valid (nothing after a bad line
was sent, unless `--skip-bad`); 3 when the store took nothing for two minutes, or could not be asked; 130 when interrupted.
"""

import asyncio
import signal
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
import typer
import uvloop
from msgspec import Struct
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.table import Table

from infrastructure.settings import Settings
from scripts import store_location
from scripts.loading import check as checking
from scripts.loading.finished import Finished
from scripts.loading.loader import Loaded, Loader
from scripts.loading.sender import GaveUp
from scripts.loading.sources import BadLine, Chitchat, Conversation, NotThere, Source, named
from scripts.progress import progress
from scripts.stores import AWAY, DATA, INTERRUPTED, MISUSED, Data, Json

DIFFERENT = 1


class Asked(Struct, frozen=True):
    """The command line."""

    data: Path
    base_url: str
    connections: int
    limit: int | None
    skip_bad: bool
    stores: Settings | None
    """Where to check; None: not at all."""


class Report(Struct):
    """What `--json` prints: the load, and what each place holds (empty: not checked)."""

    source: str
    loaded: Loaded
    seconds: float
    messages_per_second: float
    problems: list[str]
    held: dict[str, checking.Sum]
    agree: bool | None


async def load(source: Source, asked: Asked) -> Report:
    """Loads, then checks. Raises BadLine, GaveUp, and what the check raises. SIGINT and SIGTERM cancel it."""
    task = asyncio.current_task()
    assert task is not None
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    with Finished(asked.data, source.name) as finished:
        loader = Loader(asked.base_url, source, finished, skip_bad=asked.skip_bad, limit=asked.limit)
        started = time.monotonic()
        with progress(f"Loading {source.name}, conversations") as report:
            loaded = await loader.run(asked.connections, report)
        seconds = time.monotonic() - started
        held = await _held(source, asked.limit, loader.unwanted, finished, asked.stores) if asked.stores else {}
    return Report(
        source=source.name,
        loaded=loaded,
        seconds=round(seconds, 3),
        messages_per_second=round(loaded.messages / seconds, 1),
        problems=[str(problem) for problem in loader.problems],
        held=held,
        agree=len(set(map(msgspec.json.encode, held.values()))) == 1 if held else None,
    )


async def _held(
    source: Source, limit: int | None, unwanted: set[str], finished: Finished, stores: Settings
) -> dict[str, checking.Sum]:
    """What the source, the log and MongoDB hold."""
    by_id = {line.id: line.key for line in finished.by_key.values()}

    def keys(conversation_id: str, metadata: Any) -> str | None:
        """By what the conversation says of itself where it does, so that one stored twice is seen twice."""
        if isinstance(source, Chitchat):
            return metadata.get("key") if metadata.get("source") == source.name else None
        return by_id.get(conversation_id)

    wanted = (it for it in islice(source, limit) if isinstance(it, Conversation) and it.key not in unwanted)
    expected, all_keys = checking.of_source(wanted)
    in_log, head = await checking.of_log(stores, keys, all_keys)
    in_mongodb = await checking.of_mongodb(stores, keys, all_keys, position=head)
    return {"source": expected, "log": in_log, "mongodb": in_mongodb}


def main(
    source: Annotated[str, typer.Argument(metavar="chitchat|FILE", help="what to load")],
    *,
    data: Data = DATA,
    base_url: Annotated[str | None, typer.Option(help="the store's URL, where it is not that of --data")] = None,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="conversations sent at a time")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many conversations, from the beginning")] = None,
    check: Annotated[
        bool | None, typer.Option(help="compare the source with the stores  [chitchat: yes, FILE: no]")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="report bad lines and go on")] = False,
    as_json: Json = False,
) -> None:
    """Loads conversations into the running store, through its command side. Repeat it as often as you like."""
    try:
        what = named(source)
        checks = check if check is not None else isinstance(what, Chitchat)
        asked = Asked(
            data=data,
            base_url=base_url or store_location.base_url(data),
            connections=connections,
            limit=limit,
            skip_bad=skip_bad,
            stores=store_location.settings(data) if checks else None,
        )
        report = uvloop.run(load(what, asked))
    except (NotThere, store_location.NotRunning) as problem:
        _stop(str(problem), MISUSED)
    except BadLine as problem:
        _stop(f"{problem}\nNothing after it was sent. Mend it and run this again, or say --skip-bad.", MISUSED)
    except GaveUp as problem:
        _stop(f"gave up: {problem}. Run this again to go on.", AWAY)
    except (checking.NotCaughtUp, psycopg.Error, PyMongoError) as problem:
        _stop(f"all is loaded, but the check failed: {type(problem).__name__}: {problem}", AWAY)
    except (asyncio.CancelledError, KeyboardInterrupt):
        _stop("interrupted. Run this again to go on.", INTERRUPTED)
    for skipped in report.problems:
        print(f"skipped: {skipped}", file=sys.stderr)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(report)
    if report.agree is False:
        _stop("the source, the log and MongoDB do not hold the same.", DIFFERENT)


def _show(report: Report) -> None:
    done = report.loaded
    print(
        f"{report.source}: stored {done.conversations:,} conversations, {done.messages:,} messages in {report.seconds:.1f} s:"
        f" {report.messages_per_second:,.0f} messages/s ({done.there_before:,} conversations with"
        f" {done.messages_there_before:,} messages were there before; {done.skipped:,} skipped; {done.retries:,} retries)"
    )
    if not report.held:
        return
    table = Table("", "conversations", "messages", "SHA-256")
    for place, held in report.held.items():
        table.add_row(place, f"{held.conversations:,}", f"{held.messages:,}", held.sha256)
    Console(width=110).print(table)
    if report.agree:
        print("All three agree.")


def _stop(message: str, status: int) -> None:
    print(f"scripts.load: {message}", file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
