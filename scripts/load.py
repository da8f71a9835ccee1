"""Loads conversations into the running store, through its command API.

    scripts/run load chitchat          7,168 conversations of people, 258,145 messages
    scripts/run load FILE.jsonl        a line is {"metadata": {}, "title": …, "instructions": …, "items": […]}

The load can be interrupted at any time. The next run resumes, and stores nothing twice. The same line in a file with
the same name is the same conversation. `--check` compares this source's conversations in the source, in the log and in
MongoDB.

A store with AUTH_MODE=keys needs a key with the scope `write`, in the environment variable STORE_API_KEY.

Exit status: 0 loaded; 1 the check found a difference; 2 wrong usage, no store is found or its settings are not valid,
the key is refused, or a line is not valid (without `--skip-bad` the load stops there); 3 no request succeeded for two
minutes, or the check could not be made; 130 interrupted.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
from scripts.loading.checksums import Checksum, ViewsBehind, log_checksum, mongodb_checksum, source_checksum
from scripts.loading.loader import LoadCounts, Loader
from scripts.loading.progress_file import ProgressFile
from scripts.loading.retrying_client import CredentialRefused, RetriesExhausted
from scripts.loading.sources import BadLine, Chitchat, Conversation, Source, SourceNotFound, open_source
from scripts.progress import progress
from scripts.stores import DEFAULT_DATA, INTERRUPTED, STORE_UNAVAILABLE, USAGE_ERROR, DataOption, JsonOption

DIFFERENT = 1


class Options(Struct, frozen=True):
    """The options of a load. `check_stores`: the stores to compare with the source; None to compare nothing."""

    data: Path
    base_url: str
    headers: Mapping[str, str]
    connections: int
    limit: int | None
    skip_bad: bool
    check_stores: Settings | None


class Result(Struct):
    """What `--json` prints. `checksums`: by `source`, `log`, `mongodb`."""

    source: str
    loaded: LoadCounts
    seconds: float
    messages_per_second: float
    problems: list[str]
    checksums: dict[str, Checksum]
    agree: bool | None


async def load(source: Source, options: Options) -> Result:
    """SIGINT and SIGTERM cancel the load. Raises BadLine, CredentialRefused and RetriesExhausted.

    A check that fails raises ViewsBehind, psycopg.Error or PyMongoError.
    """
    task = asyncio.current_task()
    assert task is not None
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    with ProgressFile(options.data, source.name) as progress_file:
        loader = Loader(
            options.base_url,
            options.headers,
            source,
            progress_file,
            skip_bad=options.skip_bad,
            limit=options.limit,
        )
        started = time.monotonic()
        with progress(f"Conversations loaded from {source.name}") as report:
            loaded = await loader.run(options.connections, report)
        seconds = time.monotonic() - started
        checksums: dict[str, Checksum] = {}
        if options.check_stores is not None:
            expected = (
                entry
                for entry in islice(source, options.limit)
                if isinstance(entry, Conversation) and entry.key not in loader.rejected_keys
            )
            checksums = await _checksums(source, expected, progress_file, options.check_stores)
    return Result(
        source=source.name,
        loaded=loaded,
        seconds=round(seconds, 3),
        messages_per_second=round(loaded.messages / seconds, 1),
        problems=[str(problem) for problem in loader.problems],
        checksums=checksums,
        agree=len(set(map(msgspec.json.encode, checksums.values()))) == 1 if checksums else None,
    )


async def _checksums(
    source: Source, expected: Iterable[Conversation], progress_file: ProgressFile, stores: Settings
) -> dict[str, Checksum]:
    key_by_id = {stored.id: stored.key for stored in progress_file.by_key.values()}

    def key_of(conversation_id: str, metadata: Any) -> str | None:
        """None if the conversation is not from this source.

        chitchat's key is in the metadata, so a conversation that was stored twice counts twice.
        """
        if isinstance(source, Chitchat):
            return metadata.get("key") if metadata.get("source") == source.name else None
        return key_by_id.get(conversation_id)

    of_source, keys = source_checksum(expected)
    of_log, position = await log_checksum(stores, key_of, keys)
    of_mongodb = await mongodb_checksum(stores, key_of, keys, position=position)
    return {"source": of_source, "log": of_log, "mongodb": of_mongodb}


def main(
    source: Annotated[str, typer.Argument(metavar="chitchat|FILE", help="What to load.")],
    *,
    data: DataOption = DEFAULT_DATA,
    base_url: Annotated[str | None, typer.Option(help="The store's URL, if it is not the one of --data.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Conversations sent at the same time.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="Load only the first N conversations.")] = None,
    check: Annotated[
        bool | None, typer.Option(help="Compare the stores with the source.  [default: only for chitchat]")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report bad lines and continue.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Loads conversations into the running store. It is safe to run it again: nothing is stored twice."""
    try:
        opened_source = open_source(source)
        checks = check if check is not None else isinstance(opened_source, Chitchat)
        options = Options(
            data=data,
            base_url=base_url or store_location.base_url(data),
            headers=store_location.credential(data),
            connections=connections,
            limit=limit,
            skip_bad=skip_bad,
            check_stores=store_location.settings(data) if checks else None,
        )
        result = uvloop.run(load(opened_source, options))
    except (SourceNotFound, CredentialRefused, store_location.StoreNotFound) as problem:
        _stop(str(problem), USAGE_ERROR)
    except BadLine as problem:
        _stop(
            f"{problem}\nThe load stopped there. Correct the line and run the command again, or add --skip-bad.",
            USAGE_ERROR,
        )
    except RetriesExhausted as problem:
        _stop(f"Stopped: {problem}. Run the command again to resume.", STORE_UNAVAILABLE)
    except (ViewsBehind, psycopg.Error, PyMongoError) as problem:
        _stop(
            f"The load has ended, but the check failed: {type(problem).__name__}: {problem}."
            " Check that the projector and the stores run, then run the command again.",
            STORE_UNAVAILABLE,
        )
    except (asyncio.CancelledError, KeyboardInterrupt):
        _stop("Interrupted. Run the command again to resume.", INTERRUPTED)
    for skipped in result.problems:
        print(f"skipped: {skipped}", file=sys.stderr)
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        _show(result)
    if result.agree is False:
        _stop(
            "The source, the log and MongoDB do not have the same messages. `scripts/run verify` compares the stores.",
            DIFFERENT,
        )


def _show(result: Result) -> None:
    loaded = result.loaded
    print(
        f"{result.source}: stored {loaded.conversations:,} conversations, {loaded.messages:,} messages in"
        f" {result.seconds:.1f} s: {result.messages_per_second:,.0f} messages/s ({loaded.already_stored:,} conversations"
        f" with {loaded.messages_already_stored:,} messages were already stored; {loaded.skipped:,} skipped;"
        f" {loaded.retries:,} retries)"
    )
    if not result.checksums:
        return
    table = Table("", "conversations", "messages", "SHA-256")
    for name, checksum in result.checksums.items():
        table.add_row(name, f"{checksum.conversations:,}", f"{checksum.messages:,}", checksum.sha256)
    Console(width=110).print(table)
    if result.agree:
        print("All three agree.")


def _stop(message: str, status: int) -> NoReturn:
    print(f"scripts.load: {message}", file=sys.stderr)
    raise typer.Exit(status)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
