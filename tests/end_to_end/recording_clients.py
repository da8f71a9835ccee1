"""Clients that repeat a request until it is acknowledged, and record the acknowledgement."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle

import msgspec
from msgspec import Struct

from scripts.http_connection import Answer, Connection

MAX_ITEMS = 3
MAX_ITEMS_OF_EXCLUSIVE_CLIENT = 20
ATTEMPT_TIMEOUT_SECONDS = 0.5
"""Short, so that clients soon retry at another process."""

ACKNOWLEDGE_TIMEOUT_SECONDS = 60.0


class Append(Struct, frozen=True):
    conversation_id: str
    texts: tuple[str, ...]
    key: str

    async def send(self, connection: Connection, timeout_seconds: float) -> Answer:
        """Sends the request once. Raises OSError when the outcome is unknown."""
        items = [{"type": "message", "role": "user", "content": text} for text in self.texts]
        path, body = f"/v1/conversations/{self.conversation_id}/items", msgspec.json.encode({"items": items})
        headers = {"idempotency-key": self.key}
        return await connection.request("POST", path, body, headers, seconds=timeout_seconds)


class AcknowledgedAppend(Struct, frozen=True):
    """`version`, `position`: the last item's version and position."""

    request: Append
    answer: Answer

    @property
    def version(self) -> int:
        return int(self.answer.headers["etag"].strip('"'))

    @property
    def position(self) -> int:
        return int(self.answer.headers["x-position"])

    @property
    def replayed(self) -> bool:
        """Whether an earlier attempt was stored and its answer was lost."""
        return "idempotent-replayed" in self.answer.headers

    @property
    def items(self) -> list[tuple[int, str, str]]:
        """(version, id, text) of each item."""
        items = self.answer.json()["data"]
        first = self.version - len(items) + 1
        return [(first + n, item["id"], item["content"][0]["text"]) for n, item in enumerate(items)]


class AcknowledgementCounter:
    def __init__(self) -> None:
        self.by_api: Counter[str] = Counter()
        self._counted = asyncio.Event()

    def count(self, api: str) -> None:
        self.by_api[api] += 1
        self._counted.set()

    async def wait_for_more(self, api: str, count: int) -> None:
        target = self.by_api[api] + count
        async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_SECONDS):
            while self.by_api[api] < target:
                self._counted.clear()
                await self._counted.wait()


class SharingClient:
    """A client that appends to conversations that other clients may use too.

    `urls`: the URL of each process. `pause_seconds`: the pause before each attempt.
    """

    def __init__(
        self,
        name: str,
        urls: Mapping[str, str],
        conversations: Sequence[str],
        seed: str,
        counter: AcknowledgementCounter,
        *,
        pause_seconds: float = 0.0,
    ) -> None:
        self.acknowledged: list[AcknowledgedAppend] = []
        self.retries: Counter[str] = Counter()
        self._name = name
        self._urls = urls
        self._conversations = conversations
        self._random = random.Random(seed)
        self._counter = counter
        self._pause_seconds = pause_seconds
        self._connections: dict[str, Connection] = {}

    async def append_until(self, stop: asyncio.Event) -> None:
        try:
            while not stop.is_set():
                await self._append()
        finally:
            for connection in self._connections.values():
                connection.close()

    async def _append(self) -> None:
        items = self._random.randint(1, MAX_ITEMS)
        append = Append(
            self._random.choice(self._conversations),
            tuple(f"{self._name}-{len(self.acknowledged)}-{n}" for n in range(items)),
            self._random.randbytes(16).hex(),
        )
        async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_SECONDS):
            for api in cycle(self._random.sample(sorted(self._urls), len(self._urls))):
                if (answer := await self._attempt(append, api)) is not None:
                    self._counter.count(api)
                    self.acknowledged.append(AcknowledgedAppend(append, answer))
                    return

    async def _attempt(self, append: Append, api: str) -> Answer | None:
        """Returns the acknowledgement, or None when the append must be repeated."""
        await asyncio.sleep(self._pause_seconds)
        try:
            answer = await append.send(await self._connection(api), ATTEMPT_TIMEOUT_SECONDS)
        except OSError as error:
            self.retries[type(error).__name__] += 1
            return None
        if answer.status >= 500:
            self.retries[str(answer.status)] += 1
            return None
        assert answer.status == 200, answer.body
        return answer

    async def _connection(self, api: str) -> Connection:
        connection = self._connections.get(api)
        if connection is None or not connection.is_open:
            connection = self._connections[api] = await Connection.open(self._urls[api])
        return connection


class AcknowledgedEvent(Struct, frozen=True):
    """An event that an answer acknowledged. An answer has only the position of its last event."""

    version: int
    position: int | None
    topic: str
    item_id: str | None = None
    text: str | None = None


class ExclusiveClient:
    """A client whose conversations no other client uses. `acknowledged`: the events of each conversation, in order."""

    def __init__(self, name: str, urls: Mapping[str, str], seed: str, pause_seconds: float) -> None:
        self.acknowledged: dict[str, list[AcknowledgedEvent]] = {}
        self._name = name
        self._urls = urls
        self._random = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._conversation_id: str | None = None

    async def work_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self._conversation_id is None:
                await self._start()
            else:
                [step] = self._random.choices(
                    (self._append, self._retract, self._end_and_reopen, self._delete), (20, 6, 2, 1)
                )
                await step(f"/v1/conversations/{self._conversation_id}", self.acknowledged[self._conversation_id])

    async def _start(self) -> None:
        answer = await self._request("POST", "/v1/conversations", {})
        self._conversation_id = str(answer.json()["id"])
        self.acknowledged[self._conversation_id] = [event_of(answer, "conversation.started")]

    async def _append(self, path: str, events: list[AcknowledgedEvent]) -> None:
        count = self._random.randint(1, MAX_ITEMS_OF_EXCLUSIVE_CLIENT)
        texts = [f"{self._name}-{len(events)}-{n}" for n in range(count)]
        items = [{"type": "message", "role": "user", "content": text} for text in texts]
        answer = await self._request("POST", f"{path}/items", {"items": items})
        item_ids = [item["id"] for item in answer.json()["data"]]
        events += [
            event_of(answer, "item.appended", item_id, text, events_after=count - 1 - n)
            for n, (item_id, text) in enumerate(zip(item_ids, texts, strict=True))
        ]

    async def _retract(self, path: str, events: list[AcknowledgedEvent]) -> None:
        retracted = {event.item_id for event in events if event.topic == "item.retracted"}
        if item_ids := [
            event.item_id for event in events if event.item_id is not None and event.item_id not in retracted
        ]:
            item_id = self._random.choice(item_ids)
            answer = await self._request("DELETE", f"{path}/items/{item_id}")
            events.append(event_of(answer, "item.retracted", item_id))

    async def _end_and_reopen(self, path: str, events: list[AcknowledgedEvent]) -> None:
        events.append(event_of(await self._request("POST", f"{path}/end", {}), "conversation.ended"))
        events.append(event_of(await self._request("POST", f"{path}/reopen"), "conversation.reopened"))

    async def _delete(self, path: str, events: list[AcknowledgedEvent]) -> None:
        events.append(event_of(await self._request("DELETE", path), "conversation.deleted"))
        self._conversation_id = None

    async def _request(self, method: str, path: str, body: object = None) -> Answer:
        headers = {"idempotency-key": self._random.randbytes(16).hex()}
        content = b"" if body is None else msgspec.json.encode(body)
        async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_SECONDS):
            for api in cycle(self._random.sample(sorted(self._urls), len(self._urls))):
                await asyncio.sleep(self._pause_seconds)
                with suppress(OSError):
                    connection = await Connection.open(self._urls[api])
                    try:
                        answer = await connection.request(
                            method, path, content, headers, seconds=ATTEMPT_TIMEOUT_SECONDS
                        )
                    finally:
                        connection.close()
                    if answer.status == 200:
                        return answer
                    assert answer.status == 503, answer.body
        raise AssertionError


def event_of(
    answer: Answer, topic: str, item_id: str | None = None, text: str | None = None, *, events_after: int = 0
) -> AcknowledgedEvent:
    """`events_after`: how many events of the same request follow this one."""
    version, position = int(answer.headers["etag"].strip('"')), int(answer.headers["x-position"])
    return AcknowledgedEvent(version - events_after, None if events_after else position, topic, item_id, text)
