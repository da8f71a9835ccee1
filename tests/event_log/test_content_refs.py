"""A content that an event names is noted in the transaction of the event.

An event that names a missing content is not appended.
"""

import asyncio
import hashlib
import json

import pytest
from psycopg.errors import ForeignKeyViolation

from domain.commands import AppendItems, DeleteConversation, NewItem
from domain.content_references import inline_reference, reference_of
from infrastructure.event_log.log import EventLog
from infrastructure.http.errors import as_api_error
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.access.made_keys import execute
from tests.event_log.appending import append_texts, request, start, texts
from tests.log import Log

KEEP = "INSERT INTO contents (tenant_id, sha256, size) VALUES ('acme', %s, 1)"
REFS = "SELECT row_key, item_id, sha256, size, label FROM content_refs"


def append_image(sha256: bytes) -> AppendItems:
    reference = inline_reference("acme", sha256, 1, "image/png")
    item = {"role": "user", "content": [{"type": "input_image", "image_url": reference.text}]}
    return AppendItems(items=(NewItem(item_id=mint("msg"), item=json.dumps(item).encode()),), author="ann")


async def test_an_item_that_names_a_content_has_a_row_until_its_conversation_is_deleted(
    settings: Settings, events: EventLog, log: Log
) -> None:
    sha256 = hashlib.sha256(b"x").digest()
    execute(settings.postgres_url, KEEP, sha256)
    conversation_id = await start(events)
    command = append_image(sha256)
    await events.append(request(conversation_id, command))
    item_id = command.items[0].item_id
    assert log.rows(REFS) == [(item_id, item_id, sha256, 1, "image/png")]
    await events.append(request(conversation_id, DeleteConversation()))
    assert log.rows(REFS) == []


async def test_only_the_command_that_names_a_missing_content_fails(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    commands = [append_texts("one"), append_image(b"\0" * 32), append_texts("two")]
    results = await asyncio.gather(
        *(events.append(request(conversation_id, command)) for command in commands), return_exceptions=True
    )
    error = results[1]
    assert isinstance(error, Exception)
    assert isinstance(error.__cause__, ForeignKeyViolation), error
    assert as_api_error(error).code == "file_not_found"
    assert texts(log, conversation_id) == ["one", "two"]
    assert log.rows(REFS) == []


async def test_a_text_that_looks_like_a_reference_names_nothing(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    reference = inline_reference("acme", b"\0" * 32, 1, "image/png")
    item = {"role": "user", "content": reference.text}
    await events.append(request(conversation_id, append_texts(json.dumps(item))))
    assert log.rows(REFS) == []


@pytest.mark.parametrize("label", [None, "", "image/png", "text/plain;charset=a:b"])
def test_a_reference_is_read_as_it_was_written(label: str | None) -> None:
    reference = inline_reference("acme", b"\1" * 32, 5, label)
    assert reference_of(reference.text) == reference
