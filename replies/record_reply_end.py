"""A reply's end gets on record, however long that takes: what a model said is not given up for a log that is away."""

import asyncio
import time
from collections.abc import Callable

import psycopg
import structlog

from commands.command_context import CommandContext
from domain.commands import Command
from domain.errors import ReplyIsOver
from infrastructure.event_log.append_request import Appended, LogBusy, LogUnavailable
from replies.record import Record, read

log = structlog.get_logger(__name__)

MAX_PAUSE_SECONDS = 5.0
PATIENCE_SECONDS = 25.0
"""How long those who listen wait for the end of a reply to be on record, while the log is away."""


async def settle(
    context: CommandContext,
    conversation_id: str,
    response_id: str,
    command: Command,
    tell_late: Callable[[Exception], None],
) -> Appended | Record:
    """Appends the end, again and again while the log is away; a Record where an earlier try turns out to have done it.

    Only the process's own end ends this. `tell_late` is told what keeps it, again and again, once that takes PATIENCE_SECONDS.
    Raises Refused.
    """
    pause = 0.1
    doubtful = False
    since = time.monotonic()
    while True:
        try:
            return await context.append(conversation_id, command)
        except (LogUnavailable, LogBusy) as error:
            doubtful = doubtful or isinstance(error, LogUnavailable)
            log.warning("reply_end_waits", response_id=response_id, error_type=type(error).__name__)
            if time.monotonic() - since > PATIENCE_SECONDS:
                tell_late(error)
        except ReplyIsOver:
            if not doubtful:
                raise
            try:
                record = await _as_it_ended(context, conversation_id, response_id, command)
            except psycopg.Error as error:
                log.warning("reply_end_waits", response_id=response_id, error_type=type(error).__name__)
            else:
                if record is None:
                    raise
                return record
        await asyncio.sleep(pause)  # the only wait there is: nothing tells us that the log is back
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


async def _as_it_ended(
    context: CommandContext, conversation_id: str, response_id: str, command: Command
) -> Record | None:
    """The record, if the end in it is this command's."""
    record = await read(context.dependencies.reader, conversation_id, response_id)
    mine = [kept.item_id for kept in getattr(command, "output", ())]
    same = record.end is not None and [kept.item_id for kept in record.output] == mine
    return record if same else None
