"""Conversations with the official SDK and the local model."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI
from openai.types.conversations import Conversation, Message
from openai.types.responses import Response

from domain.events import ItemAppended, ReplyRequested
from tests.log import Log
from tests.system import System

MAX_TOKENS = 24
ENVIRONMENT = {"LOG_LEVEL": "DEBUG"}


def test_a_conversation_from_its_first_turn_to_its_deletion(running: System, client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "demo"})
    assert isinstance(conversation, Conversation)
    assert conversation.metadata == {"topic": "demo"}

    first = client.responses.create(
        input="My name is Ada. Greet me.", conversation=conversation.id, max_output_tokens=MAX_TOKENS
    )
    assert isinstance(first, Response)
    assert first.output_text
    assert first.usage is not None
    assert first.usage.output_tokens > 0

    events = list(
        client.responses.create(
            input="What is my name?", conversation=conversation.id, max_output_tokens=MAX_TOKENS, stream=True
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type in ("response.completed", "response.incomplete")  # incomplete: MAX_TOKENS were reached
    second = events[-1].response
    assert second.output_text == deltas
    assert client.responses.retrieve(second.id).output_text == deltas

    log = Log(running.env["POSTGRES_URL"])
    recorded = log.events(conversation.id)
    item_ids = [event.item_id for event in recorded if isinstance(event, ItemAppended)]
    requests = [event for event in recorded if isinstance(event, ReplyRequested)]
    assert [(shown.first, shown.last, shown.count) for shown in requests[1].shown.ranges] == [
        (item_ids[0], item_ids[1], 2)
    ]

    ascending = list(client.conversations.items.list(conversation.id, order="asc", limit=1))
    descending = list(client.conversations.items.list(conversation.id, limit=3))
    assert [item.id for item in ascending] == item_ids == [item.id for item in descending][::-1]
    assert all(isinstance(item, Message) for item in ascending)
    assert [item.role for item in ascending if isinstance(item, Message)] == ["user", "assistant"] * 2

    updated = client.conversations.items.delete(item_ids[0], conversation_id=conversation.id)
    assert updated.id == conversation.id
    assert [item.id for item in client.conversations.items.list(conversation.id, order="asc")] == item_ids[1:]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(item_ids[0], conversation_id=conversation.id)

    assert client.conversations.update(conversation.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "other"}
    assert client.conversations.delete(conversation.id).deleted
    for read in (
        lambda: client.conversations.retrieve(conversation.id),
        lambda: client.conversations.items.list(conversation.id),
        lambda: client.responses.retrieve(second.id),
    ):
        with pytest.raises(openai.NotFoundError):
            read()


def test_a_request_id_is_in_the_answer_the_event_and_the_logs(running: System, client: OpenAI) -> None:
    answer = client.conversations.with_raw_response.create(extra_headers={"X-Request-ID": "follow-me"})
    assert answer.headers["x-request-id"] == "follow-me"
    conversation = answer.parse()
    client.conversations.retrieve(conversation.id)  # waits until the projector has written the conversation
    stream_id = conversation.id.removeprefix("conv_")
    rows = Log(running.env["POSTGRES_URL"]).rows(
        "SELECT correlation_id FROM events WHERE originator_id = %s", stream_id
    )
    assert rows == [("follow-me",)]
    for name in ("api", "projector"):
        lines = (running.data / "run" / f"{name}.log").read_text().splitlines()
        assert any("follow-me" in line and json.loads(line)["@timestamp"] for line in lines), name


def test_fifty_concurrent_appends_have_the_same_order_in_every_read(running: System, client: OpenAI) -> None:
    conversation = client.conversations.create()

    def append(n: int) -> str:
        added = client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": f"{n}"}]
        )
        return str(added.data[0].id)

    with ThreadPoolExecutor(50) as pool:
        written = list(pool.map(append, range(50)))
    ascending = [str(item.id) for item in client.conversations.items.list(conversation.id, order="asc", limit=7)]
    descending = [item.id for item in client.conversations.items.list(conversation.id, order="desc", limit=100)]
    assert ascending == descending[::-1]
    assert sorted(ascending) == sorted(written)
    log = Log(running.env["POSTGRES_URL"])
    assert log.versions(conversation.id) == list(range(1, 52))
    assert [event.item_id for event in log.events(conversation.id) if isinstance(event, ItemAppended)] == ascending
