"""After random changes of a conversation, its context from the snapshot equals its context from the log.

scripts/test tests/projections/test_context_sources.py -m endless     tries a hundred and fifty histories
"""

import random
from typing import Any, Literal

import msgspec
import pytest
from msgspec.structs import replace

from context.assembly import Context, Contexts, SharedContexts
from context.choice import ReplyRequest
from context.conversation_settings import Reader
from context.history_backwards import RecentItems, recent_items_from_log
from context.models import Models
from context.snapshot_from_log import snapshot_from_log, snapshot_of
from context.snapshot_store import read_recent_items, snapshot_lookup
from context.summary_changes import redoable_summary, undoable_summary
from domain.commands import (
    AppendItems,
    Command,
    CompleteReply,
    DescribeConversation,
    MoveHead,
    NewItem,
    PinItem,
    RedoCompaction,
    RestoreItem,
    RetractItem,
    ReviseItem,
    ShowReply,
    UndoCompaction,
    UnpinItem,
)
from domain.conversation import KnownItem
from domain.errors import ContextTooLong, Refused
from domain.events import (
    ContextPolicy,
    Fork,
    InheritedSummary,
    ItemAppended,
    Leaf,
    SentSequence,
    SequencePoint,
    Timing,
    Usage,
)
from domain.items import id_prefix
from domain.paths import leaf_before, up_to_item
from infrastructure.event_log.incarnation import StreamVersion
from infrastructure.ids import mint
from infrastructure.settings import Settings
from projections.context_view import ContextView
from projections.snapshot_change import snapshot_changes
from tests.projections.world import World
from tests.queries.writer import SHOWN, Writer

TENANT = "default"
MODELS = ("gpt-4", "gpt-4o", "smol")
TOKEN_LIMITS = (0, 5, 17, 40, 90, 200, 100_000)
WORDS = ("tea", "Grüße", "雪が降る", "🙂", "rain", "\n", "and so on", "https://a.b/c?d=e")


class History:
    """Random commands on one conversation. Odd seeds have branches.

    With the seeds 3, 7, …, only commands on branches can cause a snapshot to be made again.
    """

    def __init__(self, seed: int, write: Writer, reader: Reader) -> None:
        self.random = random.Random(seed)
        self._write = write
        self._reader = reader
        self._has_branches = seed % 2 == 1
        self._only_branches = seed % 4 == 3
        self._depth = 0
        self._items: list[tuple[ItemAppended, int]] = []
        """The appended items with their versions. Retracted items are removed, but the last one stays."""
        self._openings: dict[int, ItemAppended] = {}
        self._retracted: list[str] = []
        self._origin = ""
        self._inherited: dict[str, KnownItem] = {}
        self.conversation_id = ""

    async def start(self) -> None:
        fields: dict[str, Any] = {}
        if self.random.random() < 0.4 and not self._only_branches:
            fields = await self._fork()
        policy = self._policy(None, None, 60, 300)
        self.conversation_id = await self._write.start(context_policy=policy, instructions=self._text(), **fields)
        await self._append()

    async def _fork(self) -> dict[str, Any]:
        """One fork in five inherits a pin, and one in five a summary."""
        self._origin, self._depth = await self._write.start(self._text()), 5
        ids = await self._write.append(self._origin, *(self._text() for _ in range(4)))
        self._inherited = {item_id: KnownItem(depth=depth, inherited=True) for depth, item_id in enumerate(ids, 2)}
        fork = Fork(conversation_id=self._origin, item_id=ids[-1], version=6, depth=5)
        inherits = self.random.choice(("", "", "", "pin", "summary"))
        if inherits == "pin":
            return {"forked_from": fork, "pinned": (ids[1],)}
        if inherits == "summary":
            version = (await self._write.compact(self._origin, ids[0], 2, self._text())).version
            fork = replace(fork, version=version)
            return {"forked_from": fork, "summary": InheritedSummary(conversation_id=self._origin, version=version)}
        return {"forked_from": fork}

    async def next_command(self) -> None:
        commands = [self._append, self._append, self._append, self._request]
        if self._has_branches:
            commands += [self._revise, self._revise, self._move, self._move, self._reply_beside]
        if not self._only_branches:
            commands += [self._retract, self._retract, self._pin, self._pin, self._compact, self._undo, self._describe]
            commands += [self._restore]
        if self._inherited:
            commands += [self._change_inherited, self._change_inherited, self._change_origin]
        command = self.random.choice(commands)
        try:
            await command()
        except Refused:
            return

    async def _append(self) -> None:
        call = {"type": "function_call", "call_id": mint("call"), "name": "look", "arguments": self._text()}
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": self._text()}
        items = [self.message("user"), call, output, self.message("assistant")]
        items = items[: self.random.randint(1, 4)]
        new = [NewItem(item_id=mint(id_prefix(item)), item=msgspec.json.encode(item)) for item in items]
        await self._execute(AppendItems(items=tuple(new), author="someone"))

    async def _execute(self, command: Command) -> None:
        appended = await self._write.execute(self.conversation_id, command)
        self._depth = appended.conversation.depth
        for version, event in enumerate(appended.events, appended.version - len(appended.events) + 1):
            if isinstance(event, ItemAppended):
                self._items.append((event, version))
                if event.branch == version:
                    self._openings[version] = event

    async def _revise(self) -> None:
        event, version = self.random.choice(self._items)
        leaf = leaf_before(event, version, self._openings.get(event.branch))
        new = NewItem(item_id=mint("msg"), item=msgspec.json.encode(self.message("user")))
        await self._execute(ReviseItem(item_id=event.item_id, item=new, author="someone", leaf=leaf))

    async def _move(self) -> None:
        event, version = self.random.choice(self._items)
        path = up_to_item(event, version, self._openings.get(event.branch))
        await self._execute(MoveHead(item_id=event.item_id, path=path))

    async def _retract(self) -> None:
        retracted, _ = self.random.choice((self._items[0], *self._items))
        self._items = [(event, version) for event, version in self._items if event is not retracted] or self._items
        await self._execute(RetractItem(item_id=retracted.item_id))
        self._retracted.append(retracted.item_id)

    async def _restore(self) -> None:
        if self._retracted:
            await self._execute(RestoreItem(item_id=self.random.choice(self._retracted)))

    async def _change_inherited(self) -> None:
        """The other conversations keep the item as it is."""
        item_id, inherited = self.random.choice([*self._inherited.items()])
        command = self.random.choice((PinItem, UnpinItem, RetractItem, RestoreItem))
        await self._execute(command(item_id=item_id, inherited=inherited))

    async def _change_origin(self) -> None:
        command = self.random.choice((RetractItem, RetractItem, RestoreItem))
        await self._write.execute(self._origin, command(item_id=self.random.choice([*self._inherited])))

    async def _pin(self) -> None:
        event, _ = self.random.choice(self._items)
        await self._execute(self.random.choice((PinItem, PinItem, UnpinItem))(item_id=event.item_id))

    async def _compact(self) -> None:
        event, _ = self.random.choice(self._items)
        await self._write.compact(self.conversation_id, event.item_id, event.depth, self._text(), branch=event.branch)

    async def _undo(self) -> None:
        head = await self._reader.head(self.conversation_id)
        assert head is not None
        if self.random.random() < 0.5:
            undone, active = await undoable_summary(self._reader, self.conversation_id, head.version)
            await self._execute(UndoCompaction(undone=undone, active=active, read_version=head.version))
        else:
            active = await redoable_summary(self._reader, self.conversation_id, head.version)
            await self._execute(RedoCompaction(active=active, read_version=head.version))

    async def _describe(self) -> None:
        fields: dict[str, Any] = self.random.choice(
            (
                {"instructions": self._text()},
                {"instructions": None},
                {"context_policy": self._policy(None, 80)},
                {"metadata": {"a": self._text()}},
                {"title": self._text()},
            )
        )
        await self._execute(DescribeConversation(**fields))

    def _policy(self, *budgets: int | None) -> ContextPolicy:
        window: Literal["stable", "newest"] = self.random.choice(("stable", "stable", "newest"))
        return ContextPolicy(
            budget=self.random.choice(budgets), window=window, refill=self.random.choice((0.1, 0.6, 0.6, 0.9))
        )

    async def record(self, model: str, context: Context) -> None:
        assert context.shown.sequence is not None
        await self._write.send_sequence(self.conversation_id, model, context.shown.sequence)

    async def _request(self) -> None:
        await self._write.send_sequence(self.conversation_id, self.random.choice(MODELS), self._sequence(self._depth))

    async def _reply_beside(self) -> None:
        """The head may move before the answer comes."""
        event, version = self.random.choice(self._items)
        leaf = Leaf(event.item_id, event.depth, up_to_item(event, version, self._openings.get(event.branch)))
        shown = replace(SHOWN, version=0, sequence=self._sequence(event.depth))
        response_id, questions = await self._write.request_reply(
            self.conversation_id, self._text(), model=self.random.choice(MODELS), shown=shown, after=leaf
        )
        if self.random.random() < 0.3:
            shown = replace(shown, sequence=self._sequence(event.depth))
            await self._execute(ShowReply(response_id=response_id, model=MODELS[0], shown=shown, reason="window"))
        if self.random.random() < 0.3:
            await self._write.fail_reply(self.conversation_id, response_id)
            return
        if self.random.random() < 0.3:
            await self._move()
        answer = NewItem(item_id=mint("msg"), item=msgspec.json.encode(self.message("assistant")))
        completed = CompleteReply(
            response_id=response_id,
            model="smol-1",
            author="smol-1",
            input=questions,
            output=(answer,),
            usage=Usage(input_tokens=7, output_tokens=5),
            finish_reason="stop",
            timing=Timing(first_ms=1, total_ms=2),
        )
        await self._execute(completed)

    def _sequence(self, depth: int) -> SentSequence:
        return SentSequence(
            depth=depth,
            first_depth=self.random.randint(1, depth + 1),
            settings=self.random.randbytes(4),
            points=(SequencePoint(1, self.random.randint(1, 99), self.random.randbytes(8)),),
        )

    def message(self, role: str) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": self._text()}

    def _text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 15))) + "."


async def _no_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    return None


async def _context(
    contexts: Contexts, conversation_id: str, at: StreamVersion, reply_request: ReplyRequest
) -> Context | str:
    try:
        return await contexts.assemble(conversation_id, at, reply_request)
    except ContextTooLong as error:
        return str(error)


@pytest.mark.parametrize("histories", [4, pytest.param(150, marks=pytest.mark.endless)])
async def test_snapshot_and_log_give_the_same_context_after_random_commands(
    histories: int, write: Writer, world: World
) -> None:
    compared = 0
    reader = world.reader.of_tenant(TENANT)
    for seed in range(histories):
        history = History(seed, write, reader)
        await history.start()
        after = 0
        for _ in range(25):
            await history.next_command()
            if history.random.random() < 0.5:
                continue
            batch = await world.reader.after(after, limit=100_000)
            after = batch[-1].position if batch else after
            await ContextView(world.redis, world.reader, world.database).apply_changes(snapshot_changes(batch))
            head = await world.reader.head(history.conversation_id)
            assert head is not None
            events = await reader.conversation(history.conversation_id, limit=10_000)
            snapshot = await snapshot_from_log(world.reader, history.conversation_id, head.version)
            assert snapshot is not None
            assert await snapshot_of(events) == snapshot, seed
            for max_tokens in TOKEN_LIMITS:
                from_snapshot = await read_recent_items(world.redis, TENANT, history.conversation_id, max_tokens)
                compared += from_snapshot is not None
                if from_snapshot is not None:
                    assert from_snapshot.is_at(head.stream_version), (seed, max_tokens)
                    from_snapshot = replace(from_snapshot, chain_hash="", incarnation="")  # only snapshots have these
                from_log = await recent_items_from_log(world.reader, history.conversation_id, head.version, max_tokens)
                assert from_snapshot is None or from_snapshot == from_log, (seed, max_tokens)
            requests: list[tuple[str, Context]] = []
            for window, name in ((200, "gpt-4"), (200, "gpt-4o"), (500, "gpt-4"), (9_000, "smol")):
                models = Models(Settings(model_window=window))
                reply_request = ReplyRequest(
                    model=name, parameters={"max_output_tokens": 50}, input=[("msg_new", history.message("user"))]
                )
                with_snapshot = SharedContexts(models, snapshot_lookup(world.redis)).of(reader)
                log_only = SharedContexts(models, _no_snapshot).of(reader)
                with_redis = await _context(with_snapshot, history.conversation_id, head.stream_version, reply_request)
                from_log_only = await _context(log_only, history.conversation_id, head.stream_version, reply_request)
                assert with_redis == from_log_only, (seed, window, name)
                if isinstance(with_redis, Context):
                    requests.append((name, with_redis))
            if requests and history.random.random() < 0.5:
                await history.record(*history.random.choice(requests))
    assert compared > 10 * histories
