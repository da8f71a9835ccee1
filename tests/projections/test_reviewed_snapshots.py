"""Whatever happened to a conversation, a context is the same whether it comes from the snapshot or from the log.

scripts/test tests/projections/test_reviewed_snapshots.py -m endless     a hundred and fifty histories
"""

import random
from typing import Any

import msgspec
import pytest

from context.assembly import Context, Contexts, ReplyRequest
from context.history_backwards import RecentItems, recent_items_from_log
from context.models import Models
from context.snapshot_store import read_recent_items, snapshot_lookup
from domain.commands import (
    AppendItems,
    DescribeConversation,
    NewItem,
    PinItem,
    RedoCompaction,
    RetractItem,
    UndoCompaction,
    UnpinItem,
)
from domain.errors import ContextTooLong, Refused
from domain.events import ContextPolicy, Fork
from domain.items import id_prefix
from infrastructure.ids import mint
from infrastructure.settings import Settings
from projections.context_view import ContextView
from projections.snapshot_change import snapshot_changes
from tests.projections.world import World
from tests.queries.store import Writer

TENANT = "default"
ROOMS = (0, 5, 17, 40, 90, 200, 100_000)
WORDS = ("tea", "Grüße", "雪が降る", "🙂", "rain", "\n", "and so on", "https://a.b/c?d=e")


class History:
    """A random one."""

    def __init__(self, seed: int, write: Writer) -> None:
        self.random = random.Random(seed)
        self._write = write
        self._depth = 0
        self._ids: list[tuple[str, int]] = []
        self.conversation_id = ""

    async def begin(self) -> None:
        policy = ContextPolicy(budget=self.random.choice((None, None, 60, 300)))
        fork = None
        if self.random.random() < 0.3:
            origin = await self._write.start(*(self._text() for _ in range(4)))
            (last,) = await self._write.append(origin, "last")
            fork, self._depth = Fork(conversation_id=origin, item_id=last, version=6, depth=5), 5
        self.conversation_id = await self._write.start(
            context_policy=policy, instructions=self._text(), forked_from=fork
        )
        await self._say()

    async def happen(self) -> None:
        act = self.random.choice(
            (self._say, self._say, self._say, self._retract, self._retract, self._pin, self._pin, self._compact, self._undo,
             self._describe)
        )  # fmt: skip
        try:
            await act()
        except Refused:
            return

    async def _say(self) -> None:
        call = {"type": "function_call", "call_id": mint("call"), "name": "look", "arguments": self._text()}
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": self._text()}
        items = [self._message("user"), call, output, self._message("assistant")]
        items = items[: self.random.randint(1, 4)]
        new = [NewItem(item_id=mint(id_prefix(item)), item=msgspec.json.encode(item)) for item in items]
        await self._write.do(self.conversation_id, AppendItems(items=tuple(new), author="someone"))
        for each in new:
            self._depth += 1
            self._ids.append((each.item_id, self._depth))

    async def _retract(self) -> None:
        ident, _ = self.random.choice((self._ids[0], *self._ids))
        self._ids = [each for each in self._ids if each[0] != ident] or self._ids
        await self._write.do(self.conversation_id, RetractItem(item_id=ident))

    async def _pin(self) -> None:
        ident, _ = self.random.choice(self._ids)
        await self._write.do(self.conversation_id, self.random.choice((PinItem, PinItem, UnpinItem))(item_id=ident))

    async def _compact(self) -> None:
        ident, depth = self.random.choice(self._ids)
        await self._write.compact(self.conversation_id, ident, depth, self._text())

    async def _undo(self) -> None:
        await self._write.do(self.conversation_id, self.random.choice((UndoCompaction, RedoCompaction))())

    async def _describe(self) -> None:
        given: dict[str, Any] = self.random.choice(
            (
                {"instructions": self._text()},
                {"instructions": None},
                {"context_policy": ContextPolicy(budget=self.random.choice((None, 80)))},
                {"metadata": {"a": self._text()}},
                {"title": self._text()},
            )
        )
        await self._write.do(self.conversation_id, DescribeConversation(**given))

    def _message(self, role: str) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": self._text()}

    def _text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 15))) + "."


async def _none(tenant: str, conversation_id: str, room: int) -> RecentItems | None:
    return None


async def _shown(contexts: Contexts, conversation_id: str, version: int, asked: ReplyRequest) -> Context | str:
    try:
        return await contexts.assemble(TENANT, conversation_id, version, asked)
    except ContextTooLong as error:
        return str(error)


@pytest.mark.parametrize("histories", [4, pytest.param(150, marks=pytest.mark.endless)])
async def test_whatever_happened_a_context_by_the_snapshot_is_the_one_by_the_log(
    histories: int, write: Writer, world: World
) -> None:
    compared = 0
    for seed in range(histories):
        history = History(seed, write)
        await history.begin()
        after = 0
        for _ in range(25):
            await history.happen()
            if history.random.random() < 0.5:
                continue
            batch = await world.reader.after(after, limit=100_000)
            after = batch[-1].position if batch else after
            await ContextView(world.redis, world.reader, world.database).apply_changes(snapshot_changes(batch))
            head = await world.reader.head(history.conversation_id)
            assert head is not None
            for room in ROOMS:
                held = await read_recent_items(world.redis, TENANT, history.conversation_id, room)
                compared += held is not None
                by_log = await recent_items_from_log(world.reader, history.conversation_id, head.version, room)
                assert held is None or held == by_log, (seed, room)
            for window, name in ((200, "gpt-4"), (200, "gpt-4o"), (500, "gpt-4"), (9_000, "smol")):
                models = Models(Settings(model_window=window))
                asked = ReplyRequest(
                    model=name, parameters={"max_output_tokens": 50}, input=[("msg_new", history._message("user"))]
                )
                by_snapshot = Contexts(world.reader, models, snapshot_lookup(world.redis))
                by_log_alone = Contexts(world.reader, models, _none)
                one = await _shown(by_snapshot, history.conversation_id, head.version, asked)
                other = await _shown(by_log_alone, history.conversation_id, head.version, asked)
                assert one == other, (seed, window, name)
    assert compared > 10 * histories
