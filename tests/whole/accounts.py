"""Clients of several api processes that repeat, with its key, what was not acknowledged, and keep account of what was."""

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
MAX_ITEMS_OF_AN_OWNER = 20
ATTEMPT_SECONDS = 0.5
"""How long a client waits for an answer. What it sent to a dead process is still read by the one that takes its place."""

PATIENCE_SECONDS = 60.0


class Append(Struct, frozen=True):
    """What a client sends until it is acknowledged."""

    conversation_id: str
    texts: tuple[str, ...]
    key: str

    async def sent(self, connection: Connection, seconds: float) -> Answer:
        """Raises OSError (a TimeoutError among them) when it is not known what became of it."""
        items = [{"type": "message", "role": "user", "content": text} for text in self.texts]
        path, body = f"/v1/conversations/{self.conversation_id}/items", msgspec.json.encode({"items": items})
        return await connection.request("POST", path, body, {"idempotency-key": self.key}, seconds=seconds)


class Acknowledged(Struct, frozen=True):
    """An append and what its client was told."""

    append: Append
    answer: Answer

    @property
    def version(self) -> int:
        """That of its last item."""
        return int(self.answer.headers["etag"].strip('"'))

    @property
    def position(self) -> int:
        """That of its last item."""
        return int(self.answer.headers["x-position"])

    @property
    def replayed(self) -> bool:
        """Whether an earlier attempt had been appended, and its answer was lost."""
        return "idempotent-replayed" in self.answer.headers

    @property
    def items(self) -> list[tuple[int, str, str]]:
        """(version, id, text) of each."""
        told = self.answer.json()["data"]
        first = self.version - len(told) + 1
        return [(first + n, item["id"], item["content"][0]["text"]) for n, item in enumerate(told)]


class Tally:
    """How many appends each process has acknowledged; somebody may wait for more."""

    def __init__(self) -> None:
        self.by: Counter[str] = Counter()
        self._counted = asyncio.Event()

    def count(self, api: str) -> None:
        self.by[api] += 1
        self._counted.set()

    async def more(self, api: str, count: int) -> None:
        """Returns when `api` has acknowledged `count` more."""
        enough = self.by[api] + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.by[api] < enough:
                self._counted.clear()
                await self._counted.wait()


class Client:
    """Appends one after the other, each to a conversation and by a process of its own choice; `urls` are those of the processes.

    `pause` has the seconds before each attempt.
    """

    def __init__(
        self,
        name: str,
        urls: Mapping[str, str],
        conversations: Sequence[str],
        seed: str,
        tally: Tally,
        *,
        pause: float = 0.0,
    ) -> None:
        self.account: list[Acknowledged] = []
        self.repeats: Counter[str] = Counter()
        self._name = name
        self._urls = urls
        self._conversations = conversations
        self._random = random.Random(seed)
        self._tally = tally
        self._pause = pause
        self._connections: dict[str, Connection] = {}

    async def append_until(self, over: asyncio.Event) -> None:
        try:
            while not over.is_set():
                await self._append()
        finally:
            for connection in self._connections.values():
                connection.close()

    async def _append(self) -> None:
        items = self._random.randint(1, MAX_ITEMS)
        append = Append(
            self._random.choice(self._conversations),
            tuple(f"{self._name}-{len(self.account)}-{n}" for n in range(items)),
            self._random.randbytes(16).hex(),
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            for api in cycle(self._random.sample(sorted(self._urls), len(self._urls))):
                if (answer := await self._attempt(append, api)) is not None:
                    self._tally.count(api)
                    self.account.append(Acknowledged(append, answer))
                    return

    async def _attempt(self, append: Append, api: str) -> Answer | None:
        """The acknowledgement; None where it is to be tried again."""
        await asyncio.sleep(self._pause)
        try:
            answer = await append.sent(await self._connection(api), ATTEMPT_SECONDS)
        except OSError as error:
            self.repeats[type(error).__name__] += 1
            return None
        if answer.status >= 500:
            self.repeats[str(answer.status)] += 1
            return None
        assert answer.status == 200, answer.body
        return answer

    async def _connection(self, api: str) -> Connection:
        connection = self._connections.get(api)
        if connection is None or not connection.is_open:
            connection = self._connections[api] = await Connection.open(self._urls[api])
        return connection


class Told(Struct, frozen=True):
    """An event that a client was told of, as the log is to hold it. An answer has the position of its last event alone."""

    version: int
    position: int | None
    topic: str
    item_id: str | None = None
    text: str | None = None


class Owner:
    """Has conversations to itself, one after the other, and does with each all there is to do; `told` has what it was told."""

    def __init__(self, name: str, urls: Mapping[str, str], seed: str, pause: float) -> None:
        self.told: dict[str, list[Told]] = {}
        self._name = name
        self._urls = urls
        self._random = random.Random(seed)
        self._pause = pause
        self._conversation_id: str | None = None

    async def work_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            if self._conversation_id is None:
                await self._start()
            else:
                [step] = self._random.choices(
                    (self._append, self._retract, self._end_and_reopen, self._delete), (20, 6, 2, 1)
                )
                await step(f"/v1/conversations/{self._conversation_id}", self.told[self._conversation_id])

    async def _start(self) -> None:
        answer = await self._acknowledged("POST", "/v1/conversations", {})
        self._conversation_id = str(answer.json()["id"])
        self.told[self._conversation_id] = [told(answer, "conversation.started")]

    async def _append(self, path: str, account: list[Told]) -> None:
        texts = [f"{self._name}-{len(account)}-{n}" for n in range(self._random.randint(1, MAX_ITEMS_OF_AN_OWNER))]
        items = [{"type": "message", "role": "user", "content": text} for text in texts]
        answer = await self._acknowledged("POST", f"{path}/items", {"items": items})
        idents = [item["id"] for item in answer.json()["data"]]
        before = range(len(texts) - 1, -1, -1)
        account += [
            told(answer, "item.appended", *item, before=n) for n, *item in zip(before, idents, texts, strict=True)
        ]

    async def _retract(self, path: str, account: list[Told]) -> None:
        retracted = {event.item_id for event in account if event.topic == "item.retracted"}
        if shown := [
            event.item_id for event in account if event.item_id is not None and event.item_id not in retracted
        ]:
            item = self._random.choice(shown)
            account.append(told(await self._acknowledged("DELETE", f"{path}/items/{item}"), "item.retracted", item))

    async def _end_and_reopen(self, path: str, account: list[Told]) -> None:
        account.append(told(await self._acknowledged("POST", f"{path}/end", {}), "conversation.ended"))
        account.append(told(await self._acknowledged("POST", f"{path}/reopen"), "conversation.reopened"))

    async def _delete(self, path: str, account: list[Told]) -> None:
        account.append(told(await self._acknowledged("DELETE", path), "conversation.deleted"))
        self._conversation_id = None

    async def _acknowledged(self, method: str, path: str, body: object = None) -> Answer:
        """The answer, after as many attempts by either process as it takes."""
        headers = {"idempotency-key": self._random.randbytes(16).hex()}
        content = b"" if body is None else msgspec.json.encode(body)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for api in cycle(self._random.sample(sorted(self._urls), len(self._urls))):
                await asyncio.sleep(self._pause)
                with suppress(OSError):
                    connection = await Connection.open(self._urls[api])
                    try:
                        answer = await connection.request(method, path, content, headers, seconds=ATTEMPT_SECONDS)
                    finally:
                        connection.close()
                    if answer.status == 200:
                        return answer
                    assert answer.status == 503, answer.body
        raise AssertionError


def told(answer: Answer, topic: str, item_id: str | None = None, text: str | None = None, *, before: int = 0) -> Told:
    """The event that an answer is of, or so many before it in the same append."""
    version, position = int(answer.headers["etag"].strip('"')), int(answer.headers["x-position"])
    return Told(version - before, None if before else position, topic, item_id, text)
