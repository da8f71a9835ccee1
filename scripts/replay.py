"""Replays a conversation from the event log: its events, and its state after them.

    scripts/run replay CONVERSATION_ID [--at VERSION] [--data DIR] [--json]

It reads no view, so it helps when a view seems wrong. It also replays a deleted conversation.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from domain.conversation import Conversation, evolve
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import CONVERSATION, is_id
from infrastructure.observability.logs import configure_logging
from projections.fold import Fold
from queries.events import event_json
from scripts.stores import DEFAULT_DATA, DataOption, JsonOption, run_on_stores

_PAGE = 500


class Replayed(Struct):
    """A conversation as the log has it.

    `items`: the items of all branches, in the order of the log, without retracted and inherited items.
    """

    state: Conversation | None
    items: list[dict[str, Any]]
    events: list[Recorded]


async def replay(reader: EventReader, conversation_id: str, at: int | None) -> Replayed:
    """Reads the events, and folds them. `at`: the last version; None: all."""
    replayed = Replayed(None, [], [])
    folded = Fold()
    async for recorded in _events(reader, conversation_id, at):
        replayed.events.append(recorded)
        replayed.state = evolve(replayed.state, recorded.event)
        folded.apply(recorded)
    items = folded.documents["items"].values()
    replayed.items = [msgspec.json.decode(item["item"]) for item in items if item["retracted_version"] is None]
    return replayed


async def _events(reader: EventReader, conversation_id: str, at: int | None) -> AsyncIterator[Recorded]:
    after = 0
    while page := await reader.conversation(conversation_id, after=after, until=at, limit=_PAGE):
        for recorded in page:
            yield recorded
        after = page[-1].version


def main(
    conversation_id: Annotated[str, typer.Argument(help="The conversation to replay.")],
    at: Annotated[int | None, typer.Option(min=1, help="The version to stop at. Default: the last one.")] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Replays a conversation from the event log: its events, and its state after them."""
    configure_logging("replay", "WARNING", "console")
    if not is_id(conversation_id, CONVERSATION):
        typer.echo(f"{conversation_id!r} is not a conversation id.", err=True)
        raise typer.Exit(2)
    replayed = run_on_stores(data, lambda stores: replay(stores.reader, conversation_id, at))
    if replayed.state is None:
        typer.echo(f"The log has no conversation {conversation_id}.", err=True)
        raise typer.Exit(1)
    if at is not None and replayed.state.version < at:
        typer.echo(f"{conversation_id} has {replayed.state.version} versions, not {at}.", err=True)
        raise typer.Exit(1)
    typer.echo(_as_json(replayed) if as_json else _as_text(replayed))


def _as_json(replayed: Replayed) -> str:
    fields = {
        "state": replayed.state,
        "items": replayed.items,
        "events": [msgspec.Raw(event_json(recorded)) for recorded in replayed.events],
    }
    return msgspec.json.encode(fields).decode()


def _as_text(replayed: Replayed) -> str:
    assert replayed.state is not None
    lines = [
        f"{recorded.version:>6}  {recorded.recorded_at:%Y-%m-%d %H:%M:%S.%f}  {recorded.event.topic:<24}"
        f"  {_origin(recorded)}"
        for recorded in replayed.events
    ]
    state: dict[str, Any] = msgspec.to_builtins(replayed.state)
    width = max(map(len, state))
    lines += ["", *(f"{name:<{width}}  {value}" for name, value in state.items())]
    lines += ["", *(msgspec.json.encode(item).decode() for item in replayed.items)]
    return "\n".join(lines)


def _origin(recorded: Recorded) -> str:
    return "  ".join(
        part for part in (recorded.event.row_key, f"by {recorded.subject}", recorded.correlation_id) if part
    )


if __name__ == "__main__":
    typer.run(main)
