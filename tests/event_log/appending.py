"""Opens an EventLog for a test, and makes requests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from domain.commands import AppendItems, Command, NewItem, StartConversation
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import AppendRequest, IdempotencyKey
from infrastructure.event_log.log import EventLog, utc_now
from infrastructure.ids import mint, mint_uuid
from infrastructure.observability.metrics import Metrics
from tests.log import Log

ANN = Principal("acme", "ann", SCOPES)


@asynccontextmanager
async def open_log(
    url: str, clock: Callable[[], datetime] = utc_now, metrics: Metrics | None = None, **options: Any
) -> AsyncIterator[EventLog]:
    events = EventLog(url, metrics or Metrics(), clock, **options)
    events.open()
    yield events
    await events.close()


def request(conversation_id: str, command: Command, **changes: Any) -> AppendRequest:
    fields: dict[str, Any] = {"principal": ANN, "command_id": mint_uuid(), "correlation_id": "req_1", **changes}
    return AppendRequest(conversation_id=conversation_id, command=command, **fields)


def with_key(key: str, fingerprint: bytes = b"f") -> dict[str, Any]:
    """Arguments of `request`: an idempotency key, whose stored answer is the version."""
    return {"idempotency": IdempotencyKey(key, fingerprint), "answer": lambda appended: b"%d" % appended.version}


def append_texts(*texts: str) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=mint("msg"), item=text.encode()) for text in texts), author="ann")


async def start(events: EventLog) -> str:
    conversation_id = mint("conv")
    command = StartConversation(conversation_id=conversation_id, tenant="acme", owner="ann")
    await events.append(request(conversation_id, command))
    return conversation_id


def texts(log: Log, conversation_id: str) -> list[str]:
    return [event.item.decode() for event in log.events(conversation_id) if hasattr(event, "item")]
