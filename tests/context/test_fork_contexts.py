"""The context of a fork that is about to begin is read from one log."""

import psycopg
import pytest

from context.assembly import SharedContexts
from context.choice import ReplyRequest
from context.history_backwards import RecentItems
from context.models import Models
from domain.commands import StartConversation
from domain.events import Fork
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from tests.event_log.conftest import reader
from tests.projections.conftest import write
from tests.queries.writer import Writer

__all__ = ["reader", "write"]


async def no_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    return None


async def test_a_fork_gets_no_context_of_a_log_that_lost_events_and_grew(
    write: Writer, reader: EventReader, settings: Settings
) -> None:
    origin = await write.start()
    [one, two] = await write.append(origin, "one", "two")
    head = await reader.head(origin)
    assert head is not None
    fork = Fork(conversation_id=origin, item_id=two, version=head.version, depth=2)
    start = StartConversation(conversation_id=mint("conv"), tenant="default", owner="someone", forked_from=fork)
    contexts = SharedContexts(Models(settings), no_snapshot).of(reader.of_tenant("default"))
    reply_request = ReplyRequest(model="gpt-4o", parameters={}, input_unknown=True)
    context = await contexts.assemble_fork(start, head.stream_version, reply_request)
    assert context.sent_ids == {one, two}

    with psycopg.connect(settings.postgres_url) as connection:
        connection.execute("DELETE FROM events WHERE originator_id = %s AND originator_version > 2", [uuid_of(origin)])
    await write.append(origin, "three", "four")
    with pytest.raises(LogMoved):
        await contexts.assemble_fork(start, head.stream_version, reply_request)
