"""How long requests take in a conversation with many items and branches, compared with a conversation of ten items."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from statistics import median

import msgspec
import uvloop
from msgspec import Struct

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import TEXT, import_conversation, request, start_conversations, wait_for_views
from scripts.http_connection import Connection

SMALL_ITEMS = 10
PAGE = 10
POLICY: Mapping[str, int] = {"budget": 220}
"""About ten items fit into this budget."""

MODEL = "gpt-4.1"
_ITEM = {"type": "message", "role": "user", "content": TEXT}


class _Conversation(Struct):
    """A conversation. `items`: the ids of the items that the requests name."""

    id: str
    items: list[str]


class Branches(Benchmark):
    """In one conversation, many branches leave a long first branch. In the other conversation, each branch leaves the
    branch before it.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._small = f"the same with {SMALL_ITEMS} items"
        self._many = f"{sizes.longest_items:,} items, {sizes.branches:,} branches"
        self._long_path = f"a path of {sizes.branches:,} branches"
        self._conversations: dict[BenchStore, dict[str, _Conversation]] = {}
        self._times: dict[tuple[str, str], float] = {}
        """Medians in milliseconds, by (request, conversation)."""

    def prepare(self, store: BenchStore) -> None:
        self._conversations[store] = uvloop.run(self._created(store.base_url))

    async def _created(self, base_url: str) -> dict[str, _Conversation]:
        connection = await Connection.open(base_url)
        many = await _found(connection, await import_conversation(base_url, self.sizes.longest_items, POLICY))
        for number in range(self.sizes.branches):
            await _revise(connection, many, number)
        [long_path] = await _small(connection, base_url, 1)
        for _ in range(self.sizes.branches):
            long_path.items.append(await _append(connection, long_path))
            long_path.items[-1] = await _revise(connection, long_path, -1)
        del long_path.items[SMALL_ITEMS // 2 : -SMALL_ITEMS // 2]
        await wait_for_views(base_url)
        connection.close()
        return {self._many: many, self._long_path: long_path}

    def measure(self, store: BenchStore) -> list[Measurement]:
        self._times = uvloop.run(self._measured(store.base_url, self._conversations[store]))
        return [
            Measurement(f"{name}: {conversation}", ms, "ms", (f"{self._small}: {name}",))
            for (name, conversation), ms in self._times.items()
            if conversation != self._small
        ]

    async def _measured(
        self, base_url: str, conversations: Mapping[str, _Conversation]
    ) -> dict[tuple[str, str], float]:
        """Reads come first, because the projector is busy after a write."""
        connection = await Connection.open(base_url)
        small = await _small(connection, base_url, self.sizes.branch_samples)
        await wait_for_views(base_url)
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for requests in (READS, WRITES):
            for number in range(self.sizes.branch_samples):
                for conversation, one in ((self._small, small[number]), *conversations.items()):
                    for name, send in requests.items():
                        started = time.perf_counter()
                        await send(connection, one, number)
                        times[name, conversation].append((time.perf_counter() - started) * 1000)
        for changed in conversations.values():
            await _move(connection, changed, -1)
        connection.close()
        return {key: median(milliseconds) for key, milliseconds in times.items()}

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - `measure` has measured them
        return {f"{self._small}: {name}": self._times[name, self._small] for name in (*READS, *WRITES)}


async def _small(connection: Connection, base_url: str, count: int) -> list[_Conversation]:
    body = msgspec.json.encode({"items": [_ITEM] * SMALL_ITEMS, "context_policy": POLICY})
    return [await _found(connection, conversation) for conversation in await start_conversations(base_url, count, body)]


async def _found(connection: Connection, conversation_id: str) -> _Conversation:
    path = f"/v1/conversations/{conversation_id}/items?limit={SMALL_ITEMS // 2}"
    oldest, newest = [
        (await request(connection, "GET", f"{path}&order={order}")).json()["data"] for order in ("asc", "desc")
    ]
    return _Conversation(conversation_id, [item["id"] for item in (*oldest, *reversed(newest))])


async def _append(connection: Connection, conversation: _Conversation) -> str:
    body = msgspec.json.encode({"items": [_ITEM]})
    answer = await request(connection, "POST", f"/v1/conversations/{conversation.id}/items", body)
    return str(answer.json()["first_id"])


async def _revise(connection: Connection, conversation: _Conversation, number: int) -> str:
    item_id = conversation.items[number % len(conversation.items)]
    body = msgspec.json.encode({"item": _ITEM})
    answer = await request(connection, "POST", f"/v1/conversations/{conversation.id}/items/{item_id}", body)
    return str(answer.json()["id"])


async def _move(connection: Connection, conversation: _Conversation, number: int) -> None:
    body = msgspec.json.encode({"item": conversation.items[number % len(conversation.items)]})
    await request(connection, "POST", f"/v1/conversations/{conversation.id}/head", body)


async def _fork(connection: Connection, conversation: _Conversation, number: int) -> None:
    body = msgspec.json.encode({"item": conversation.items[number % len(conversation.items)]})
    await request(connection, "POST", f"/v1/conversations/{conversation.id}/fork", body)


async def _page(connection: Connection, conversation: _Conversation, _: int) -> None:
    await request(connection, "GET", f"/v1/conversations/{conversation.id}/items?limit={PAGE}")


async def _tree(connection: Connection, conversation: _Conversation, _: int) -> None:
    await request(connection, "GET", f"/v1/conversations/{conversation.id}/tree?limit={PAGE}")


async def _context(connection: Connection, conversation: _Conversation, _: int) -> None:
    await request(connection, "GET", f"/v1/conversations/{conversation.id}/context?model={MODEL}")


Send = Callable[[Connection, _Conversation, int], Awaitable[object]]
READS: Mapping[str, Send] = {"first page": _page, "page of the tree": _tree, "context": _context}
WRITES: Mapping[str, Send] = {"revise": _revise, "move the head": _move, "fork": _fork}
