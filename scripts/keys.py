"""Makes, lists and revokes API keys.

    scripts/run keys create --tenant T --subject S --scopes read,write,reply [--name N] [--expires 30d] [--json]
    scripts/run keys list [--tenant T] [--json]
    scripts/run keys revoke ID [--json]

Each command takes `--data DIR`. `create` prints the key on stdout, only once, because the store keeps only a hash.
These commands need Postgres, but no key.

Exit status: 0 done; 1 there is no such key, or the data is newer than this code; 2 wrong usage, no store is found, or
its settings are not valid; 3 Postgres failed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import msgspec
import psycopg
import typer

from infrastructure.access.api_key import ApiKey, InvalidField, new_key
from infrastructure.access.key_store import KeyStore
from infrastructure.event_log.migrate import DataIsNewer, check_migrations
from infrastructure.ids import KEY, is_id
from infrastructure.stores.postgres import make_pool
from scripts import store_location
from scripts.stores import DEFAULT_DATA, STORE_UNAVAILABLE, USAGE_ERROR, DataOption, JsonOption

NOT_FOUND = 1
UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
"""In seconds."""

DURATION = re.compile(r"([1-9][0-9]{0,5})([mhdw])")

T = TypeVar("T")

app = typer.Typer(
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    help="Makes, lists and revokes API keys.",
)


@app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option(help="The tenant whose data the key reaches.")],
    subject: Annotated[str, typer.Option(help="Who uses the key: a user, or a service.")],
    scopes: Annotated[str, typer.Option(help="What it allows: read, write, reply, audit, admin, act_as.")],
    name: Annotated[str | None, typer.Option(help="A name, to find it in the list.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it works: 30d, 12h, 90m, 8w. Default: for ever.")
    ] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Makes a key and prints it. It is shown only this once."""
    now = datetime.now(UTC)
    named = [scope for scope in re.split(r"[,\s]+", scopes) if scope]
    try:
        expires_at = None if expires is None else expiry(expires, now)
        key = new_key(tenant=tenant, subject=subject, scopes=named, name=name, expires_at=expires_at, now=now)
    except InvalidField as error:
        _stop(f"--{error.param.removesuffix('_at')}: {error}", USAGE_ERROR)
    _run(data, lambda keys: keys.add(key))
    if as_json:
        typer.echo(msgspec.json.encode(key))
        return
    typer.echo(key.secret)
    typer.echo(f"{_line(key)}\nThis is the only time that the key is shown: the store keeps a hash.", err=True)


@app.command("list")
def list_keys(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Lists the keys, oldest first, also those that have expired or were revoked."""
    keys = _run(data, lambda keys: keys.all(tenant))
    if as_json:
        typer.echo(msgspec.json.encode({"object": "list", "data": keys}))
        return
    for key in keys:
        typer.echo(_line(key))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as `list` shows it.")],
    *,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Revokes a key: every process that reaches Postgres refuses it within 5 s. This cannot be undone."""
    if not is_id(key_id, KEY):  # the text may be a key, so the message does not repeat it
        _stop(
            "This is not the id of a key. An id is `key_` and 32 hexadecimal digits: see `scripts/run keys list`.",
            USAGE_ERROR,
        )
    key = _run(data, lambda keys: keys.revoke(key_id, None))
    if key is None:
        _stop(f"There is no key {key_id}.", NOT_FOUND)
    typer.echo(msgspec.json.encode(key) if as_json else _line(key))


def expiry(duration: str, now: datetime) -> int:
    """When a key made at `now` expires, in seconds since 1970. Raises InvalidField."""
    match = DURATION.fullmatch(duration)
    if match is None:
        raise InvalidField("expires_at", "It must be a number and one of m, h, d and w, such as 30d.")
    return int(now.timestamp() + int(match[1]) * UNITS[match[2]])


def _line(key: ApiKey) -> str:
    states = [
        f"{state} {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
        for state, seconds in (
            ("revoked", key.revoked_at),
            ("expires", key.expires_at),
            ("last used", key.last_used_at),
        )
        if seconds is not None
    ]
    parts = [key.id, f"{key.tenant}/{key.subject}", ",".join(key.scopes), key.name or "", *states]
    return "  ".join(part for part in parts if part)


def _run(data: Path, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    """Ends the program with a message if no store is found, the data is newer than this code, or Postgres fails."""

    async def work_connected(postgres_url: str) -> T:
        pool = make_pool(postgres_url, max_size=1, read_only=False)
        await pool.open()
        try:
            return await work(KeyStore(pool))
        finally:
            await pool.close()

    try:
        postgres_url = store_location.settings(data).postgres_url
        check_migrations(postgres_url)
        return asyncio.run(work_connected(postgres_url))
    except store_location.StoreNotFound as problem:
        _stop(str(problem), USAGE_ERROR)
    except DataIsNewer as refusal:
        _stop(str(refusal), 1)
    except psycopg.Error as error:
        _stop(
            f"Postgres failed: {type(error).__name__}. Check that it runs, then run the command again.",
            STORE_UNAVAILABLE,
        )


def _stop(message: str, status: int) -> NoReturn:
    typer.echo(f"scripts.keys: {message}", err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    app()
