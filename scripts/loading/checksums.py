"""Checksums of a load: of its source, of the log and of MongoDB.

A conversation's digest is the SHA-256 of the role and the text of each item, each after its length in 4 bytes. The
checksum is the SHA-256 of the sorted lines of all conversations: key, number of items, digest.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct

from domain.events import ConversationDeleted, ConversationStarted, ItemAppended
from domain.items import from_stored, text_of
from infrastructure.event_log.reader import EventReader
from infrastructure.settings import Settings
from infrastructure.stores import mongodb
from infrastructure.stores.postgres import make_pool
from projections.view_positions import ViewPositions
from scripts.loading.sources import Conversation
from scripts.progress import progress

KeyOf = Callable[[str, Mapping[str, str]], str | None]
"""(conversation id, metadata) -> the key of a loaded conversation; None for any other."""

BATCH_EVENTS = 2_000
BATCH_BYTES = 16 * 1024 * 1024
CATCH_UP_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.2
_VIEWS = ("conversations", "items")


class ViewsBehind(Exception):
    """The views have made no progress for CATCH_UP_TIMEOUT_SECONDS."""


class Checksum(Struct, frozen=True):
    conversations: int
    messages: int
    sha256: str


class ConversationDigest:
    """Add the items in order. `messages`: the number of items."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.messages = 0
        self._hash = hashlib.sha256()

    def add(self, item: Mapping[str, Any]) -> None:
        self.messages += 1
        for part in (str(item.get("role", "")), text_of(dict(item))):
            data = part.encode()
            self._hash.update(len(data).to_bytes(4, "big") + data)

    def line(self) -> str:
        return f"{self.key} {self.messages} {self._hash.hexdigest()}\n"


def combine(digests: Iterable[ConversationDigest]) -> Checksum:
    """A conversation that was stored twice counts twice."""
    listed = list(digests)
    lines = sorted(digest.line() for digest in listed)
    sha256 = hashlib.sha256("".join(lines).encode())
    return Checksum(len(listed), sum(digest.messages for digest in listed), sha256.hexdigest())


def source_checksum(conversations: Iterable[Conversation]) -> tuple[Checksum, set[str]]:
    """The expected checksum, and the keys of the conversations."""
    digests: list[ConversationDigest] = []
    for conversation in conversations:
        digest = ConversationDigest(conversation.key)
        for item in conversation.items:
            digest.add(item)
        digests.append(digest)
    return combine(digests), {digest.key for digest in digests}


async def log_checksum(settings: Settings, key_of: KeyOf, keys: Collection[str]) -> tuple[Checksum, int]:
    """The checksum, and the position up to which the log was read."""
    pool = make_pool(settings.postgres_url)
    await pool.open()
    try:
        reader = EventReader(pool)
        last = await reader.last_position()
        digests: dict[str, ConversationDigest] = {}
        position = 0
        with progress("Reading the log") as report:
            while batch := await reader.batch(position, limit=BATCH_EVENTS, max_bytes=BATCH_BYTES, until=last):
                for recorded in batch:
                    match recorded.event:
                        case ConversationStarted(metadata=metadata):
                            if (key := key_of(recorded.conversation_id, metadata)) in keys and key is not None:
                                digests[recorded.conversation_id] = ConversationDigest(key)
                        case ItemAppended(item=item):
                            if (digest := digests.get(recorded.conversation_id)) is not None:
                                digest.add(from_stored(item))
                        case ConversationDeleted():
                            digests.pop(recorded.conversation_id, None)
                        case _:
                            continue
                position = batch[-1].position
                report(position, last)
        return combine(digests.values()), last
    finally:
        await pool.close()


async def mongodb_checksum(settings: Settings, key_of: KeyOf, keys: Collection[str], *, position: int) -> Checksum:
    """Waits until the views show `position`. Raises ViewsBehind."""
    client = mongodb.connect(settings, answer_seconds=60.0)
    try:
        database = mongodb.database(client, settings)
        positions = ViewPositions(database)
        await _wait_for_views(positions, position)
        views = await positions.statuses(_VIEWS)
        conversations, items = (database[views[view].collection] for view in _VIEWS)
        digests: dict[str, ConversationDigest] = {}
        async for document in conversations.find({}, {"id": 1, "metadata": 1}):
            if (key := key_of(document["id"], dict(document["metadata"]))) in keys and key is not None:
                digests[document["id"]] = ConversationDigest(key)
        total = await items.estimated_document_count()
        order = [("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)]
        with progress("Reading MongoDB") as report:
            count = 0
            async for document in items.find({}, {"conversation_id": 1, "item": 1}).sort(order).hint(order):
                count += 1
                if (digest := digests.get(document["conversation_id"])) is not None:
                    digest.add(from_stored(document["item"].encode()))
                if count % BATCH_EVENTS == 0:
                    report(count, total)
            report(count, total)
        return combine(digests.values())
    finally:
        await client.close()


async def _wait_for_views(positions: ViewPositions, position: int) -> None:
    reached, reached_at = -1, time.monotonic()
    with progress("Waiting for the views") as report:
        while True:
            views = await positions.statuses(_VIEWS)
            if len(views) == len(_VIEWS):
                shown = min(view.position for view in views.values())
                report(max(0, shown), position)
                if shown >= position and all(view.state == "live" for view in views.values()):
                    return
                if shown > reached:
                    reached, reached_at = shown, time.monotonic()
            if time.monotonic() - reached_at > CATCH_UP_TIMEOUT_SECONDS:
                raise ViewsBehind(
                    f"the views are at position {max(0, reached)} of {position} and have not moved for"
                    f" {CATCH_UP_TIMEOUT_SECONDS:.0f} s"
                )
            await asyncio.sleep(_POLL_SECONDS)
