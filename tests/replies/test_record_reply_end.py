"""The end of a reply is to be recorded, but the log cannot be read."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from domain.commands import CompleteReply
from domain.events import Timing, Usage
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint_uuid
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from replies.record_reply_end import record_reply_end
from tests.queries.writer import Writer


@pytest.fixture
async def events_log(settings: Settings) -> AsyncIterator[EventLog]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield log
    await log.close()


async def test_on_delay_is_called_while_the_log_cannot_be_read(
    events_log: EventLog,
) -> None:
    write = Writer(events_log)
    conversation = await write.start()
    response, questions = await write.request_reply(conversation, "?")
    await write.complete_reply(conversation, response, questions, "!")
    repeated = AppendRequest(
        principal=Principal("default", "someone", SCOPES),
        conversation_id=conversation,
        command=CompleteReply(
            response_id=response,
            model="smol",
            author="smol",
            input=questions,
            output=(),
            usage=Usage(),
            finish_reason="stop",
            timing=Timing(first_ms=1, total_ms=2),
        ),
        command_id=mint_uuid(),
        correlation_id="test",
    )
    delayed_by = asyncio.get_running_loop().create_future()
    async with make_pool("postgresql://127.0.0.1:1/none") as nothing_listens:
        reader = EventReader(nothing_listens).of_tenant("default")

        def on_delay(error: Exception) -> None:
            if not delayed_by.done():
                delayed_by.set_result(error)

        recording = asyncio.create_task(
            record_reply_end(events_log, reader, repeated, on_delay, delay_timeout_seconds=0)
        )
        async with asyncio.timeout(10):
            await asyncio.wait({recording, delayed_by}, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(delayed_by.result(), psycopg.Error)
        assert not recording.done()
        recording.cancel()
        await asyncio.wait({recording})
