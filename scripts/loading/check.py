"""Whether what was loaded is in the log and in MongoDB, word for word and in order: counts and digests, three times over.

The digest of a conversation is SHA-256 over each message's role and text, every one with its length in front; that of a source
is SHA-256 over the keys, counts and digests of its conversations, sorted. Memory grows with conversations, not with messages.
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

Keys = Callable[[str, Mapping[str, str]], str | None]
"""The key of a loaded conversation, by its id and its metadata; None for one that the load did not make."""

BATCH_EVENTS = 2_000
BATCH_BYTES = 16 * 1024 * 1024
PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.2


class NotCaughtUp(Exception):
    """The projector has not moved for PATIENCE_SECONDS."""


class Sum(Struct, frozen=True):
    """What one place holds of a source."""

    conversations: int
    messages: int
    sha256: str


class Tale:
    """One conversation as it is told: its messages are added in order."""

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


def summed(tales: Iterable[Tale]) -> Sum:
    """All conversations together, in order of their keys; one that is there twice counts twice."""
    told = list(tales)
    lines = sorted(tale.line() for tale in told)
    digest = hashlib.sha256("".join(lines).encode())
    return Sum(len(told), sum(tale.messages for tale in told), digest.hexdigest())


def of_source(conversations: Iterable[Conversation]) -> tuple[Sum, set[str]]:
    """What should be there, and the keys of it."""
    tales: list[Tale] = []
    for conversation in conversations:
        tale = Tale(conversation.key)
        for item in conversation.items:
            tale.add(item)
        tales.append(tale)
    return summed(tales), {tale.key for tale in tales}


async def of_log(settings: Settings, keys: Keys, wanted: Collection[str]) -> tuple[Sum, int]:
    """What the log holds of it, and the position it was read up to."""
    pool = make_pool(settings.postgres_url)
    await pool.open()
    try:
        reader = EventReader(pool)
        head = await reader.last_position()
        tales: dict[str, Tale] = {}
        position = 0
        with progress("Reading the log") as report:
            while batch := await reader.batch(position, limit=BATCH_EVENTS, max_bytes=BATCH_BYTES, until=head):
                for recorded in batch:
                    match recorded.event:
                        case ConversationStarted(metadata=metadata):
                            if (key := keys(recorded.conversation_id, metadata)) in wanted and key is not None:
                                tales[recorded.conversation_id] = Tale(key)
                        case ItemAppended(item=item):
                            if (tale := tales.get(recorded.conversation_id)) is not None:
                                tale.add(from_stored(item))
                        case ConversationDeleted():
                            tales.pop(recorded.conversation_id, None)
                        case _:
                            continue
                position = batch[-1].position
                report(position, head)
        return summed(tales.values()), head
    finally:
        await pool.close()


async def of_mongodb(settings: Settings, keys: Keys, wanted: Collection[str], *, position: int) -> Sum:
    """What MongoDB holds of it, once it shows `position`. Raises NotCaughtUp."""
    client = mongodb.connect(settings, answer_seconds=60.0)
    try:
        database = mongodb.database(client, settings)
        positions = ViewPositions(database)
        await _caught_up(positions, position)
        places = await positions.standings(("conversations", "items"))
        conversations, items = (database[places[view].collection] for view in ("conversations", "items"))
        tales: dict[str, Tale] = {}
        async for found in conversations.find({}, {"id": 1, "metadata": 1}):
            if (key := keys(found["id"], dict(found["metadata"]))) in wanted and key is not None:
                tales[found["id"]] = Tale(key)
        total = await items.estimated_document_count()
        order = [("tenant", 1), ("conversation_id", 1), ("branch", 1), ("depth", 1)]
        with progress("Reading MongoDB") as report:
            count = 0
            async for found in items.find({}, {"conversation_id": 1, "item": 1}).sort(order).hint(order):
                count += 1
                if (tale := tales.get(found["conversation_id"])) is not None:
                    tale.add(from_stored(found["item"].encode()))
                if count % BATCH_EVENTS == 0:
                    report(count, total)
            report(count, total)
        return summed(tales.values())
    finally:
        await client.close()


async def _caught_up(positions: ViewPositions, position: int) -> None:
    """Returns when `conversations` and `items` show `position`."""
    views = ("conversations", "items")
    furthest, moved = -1, time.monotonic()
    with progress("Waiting for the projector") as report:
        while True:
            places = await positions.standings(views)
            if len(places) == len(views):
                behind = min(place.position for place in places.values())
                report(max(0, behind), position)
                if behind >= position and all(place.state == "live" for place in places.values()):
                    return
                if behind > furthest:
                    furthest, moved = behind, time.monotonic()
            if time.monotonic() - moved > PATIENCE_SECONDS:
                raise NotCaughtUp(f"the read models stand still at position {furthest} of {position}")
            await asyncio.sleep(_POLL_SECONDS)
