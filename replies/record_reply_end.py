"""Appends the end of a reply, and retries while the log is unavailable, because a model's answer must not be lost."""

import asyncio
import time
from collections.abc import Callable

import psycopg
import structlog

from domain.errors import ConversationNotFound, ReplyIsOver, ReplyLost
from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.log import EventLog
from replies.record import Reader, Record, is_lost, read_record
from replies.reply_end import EndReply

log = structlog.get_logger(__name__)

MAX_PAUSE_SECONDS = 5.0
DELAY_TIMEOUT_SECONDS = 25.0
"""After this time clients get an error. The retries continue."""


async def record_reply_end(
    events_log: EventLog,
    reader: Reader,
    request: AppendRequest,
    on_delay: Callable[[Exception], None],
    *,
    delay_timeout_seconds: float = DELAY_TIMEOUT_SECONDS,
) -> Appended | Record:
    """Retries until the process ends. Returns a Record if an earlier try has appended the end.

    After `delay_timeout_seconds` each failed try also calls `on_delay`. Raises Refused, or ReplyLost if the log no
    longer has the reply's request.
    """
    command = request.command
    assert isinstance(command, EndReply)
    pause = 0.1
    outcome_unknown = False
    started_at = time.monotonic()
    # No `raise_if_cancelled`, because the end of a stopped reply must be appended although its task was cancelled.
    while True:
        try:
            return await events_log.append(request)
        except (LogUnavailable, LogBusy) as error:
            outcome_unknown = outcome_unknown or isinstance(error, LogUnavailable)
            cause: Exception = error
        except (ReplyIsOver, ConversationNotFound) as refused:
            try:
                if await is_lost(reader, request.conversation_id, command.response_id):
                    raise ReplyLost(command.response_id) from refused
                if isinstance(refused, ConversationNotFound) or not outcome_unknown:
                    raise
                record = await read_record(reader, request.conversation_id, command.response_id)
            except psycopg.Error as error:
                cause = error
            else:
                if not _was_ended_by(command, record):
                    raise
                return record
        log.warning("reply_end_delayed", response_id=command.response_id, error_type=type(cause).__name__)
        if time.monotonic() - started_at > delay_timeout_seconds:
            on_delay(cause)
        await asyncio.sleep(pause)  # nothing notifies us when the log is back
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


def _was_ended_by(command: EndReply, record: Record) -> bool:
    """Ends without output cannot be told apart."""
    return record.end is not None and [stored.item_id for stored in record.output] == [
        stored.item_id for stored in command.output
    ]
