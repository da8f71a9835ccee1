"""Revised items, moved heads, and replies on branches."""

import random

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st
from msgspec import Struct, field
from msgspec.structs import replace

from domain import appended_items
from domain.commands import (
    AppendItems,
    Command,
    CompleteReply,
    InterruptReply,
    MoveHead,
    NewItem,
    RequestReply,
    ReviseItem,
)
from domain.conversation import Conversation, KnownItem, evolve, evolve_item
from domain.decide import decide
from domain.errors import ConversationIsEnded, ConversationLocked, ItemNotFound, PathHasChanged, TooManyBranches
from domain.events import (
    ContextPolicy,
    ConversationEnded,
    Event,
    HeadMoved,
    InputItem,
    ItemAppended,
    ItemRetracted,
    Leaf,
    PathBranch,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    Shown,
    Timing,
    Usage,
)
from domain.paths import FIRST_BRANCH, PathSegment, leaf_before, takes, up_to_item
from tests.domain.specification import CONVERSATION, appended, given, started

THREE = (started(), appended("m1", 1, None), appended("m2", 2, "m1"), appended("m3", 3, "m2"))
AFTER_M1 = Leaf("m1", 1, (PathBranch(0, 1, 2),))
REVISE_M2 = ReviseItem(item_id="m2", item=NewItem(item_id="n2", item=b"{}"), author="ann", leaf=AFTER_M1)
REVISED_M2 = (
    appended("n2", 2, "m1", branch=5, revises="m2", leaves=AFTER_M1.path),
    HeadMoved(item_id="n2", depth=2, path=(PathBranch(0, 1, 2), PathBranch(5))),
)
TO_M2 = MoveHead(item_id="m2", path=(PathBranch(0, 2, 3),))
MOVED_TO_M2 = HeadMoved(item_id="m2", depth=2, path=TO_M2.path)
SHOWN = Shown(version=0, ranges=(), budget=10, tokens=1, encoding="e", renderer=1, request_sha256=b"")
RETRACTED_M2 = ItemRetracted(item_id="m2", branch=0, depth=2)


def ask(response_id: str, after: Leaf | None = None, version: int = 0) -> RequestReply:
    shown = replace(SHOWN, version=version)
    return RequestReply(response_id=response_id, model="m", parameters=b"{}", input=(), shown=shown, after=after)


def requested(response_id: str, after: Leaf | None = None) -> ReplyRequested:
    return ReplyRequested(response_id=response_id, model="m", parameters=b"{}", input=(), shown=SHOWN, after=after)


def complete(response_id: str, *item_ids: str) -> CompleteReply:
    return CompleteReply(
        response_id=response_id,
        model="m",
        author="ann",
        input=(),
        output=tuple(NewItem(item_id=item_id, item=b"{}") for item_id in item_ids),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
    )


def append(*item_ids: str) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=item_id, item=b"{}") for item_id in item_ids), author="ann")


def test_a_revised_item_opens_a_branch_and_the_head_moves_there() -> None:
    given(*THREE).when(REVISE_M2).then(*REVISED_M2)
    given(*THREE, *REVISED_M2).when(append("n3")).then(appended("n3", 3, "n2", branch=5))
    first = replace(REVISE_M2, item_id="m1", leaf=Leaf(None, 0, (PathBranch(0, 0, 0),)))
    given(*THREE).when(first).then(
        appended("n2", 1, None, branch=5, revises="m1", leaves=(PathBranch(0, 0, 0),)),
        HeadMoved(item_id="n2", depth=1, path=(PathBranch(0, 0, 0), PathBranch(5))),
    )
    given(*THREE).when(replace(REVISE_M2, item_id="m9")).refused(ItemNotFound)
    given(*THREE).when(replace(REVISE_M2, item_id="m3")).refused(ItemNotFound)
    given(*THREE, RETRACTED_M2).when(REVISE_M2).refused(ItemNotFound)
    given(*THREE, ConversationEnded()).when(REVISE_M2).refused(ConversationIsEnded)


def test_an_append_at_a_moved_head_opens_a_branch() -> None:
    given(*THREE).when(TO_M2).then(MOVED_TO_M2)
    given(*THREE, MOVED_TO_M2).when(TO_M2).then()
    given(*THREE).when(MoveHead(item_id="m3", path=(PathBranch(0, 3, 4),))).then()
    given(*THREE, MOVED_TO_M2).when(append("n3", "n4")).then(
        appended("n3", 3, "m2", branch=6, leaves=TO_M2.path),
        HeadMoved(item_id="n3", depth=3, path=(*TO_M2.path, PathBranch(6))),
        appended("n4", 4, "n3", branch=6),
    )
    given(*THREE).when(replace(TO_M2, path=(PathBranch(0, 3, 4),))).refused(ItemNotFound)
    given(*THREE, RETRACTED_M2).when(TO_M2).refused(ItemNotFound)
    given(*THREE, ConversationEnded()).when(TO_M2).refused(ConversationIsEnded)


def test_only_replies_at_the_same_head_exclude_each_other() -> None:
    running = (*THREE, requested("r1"))
    given(*running).when(ask("r2")).refused(ConversationLocked)
    given(*running, MOVED_TO_M2).when(ask("r2")).then(requested("r2"))
    given(*running, requested("r3", AFTER_M1)).when(ask("r2", AFTER_M1)).then(requested("r2", AFTER_M1))
    given(*THREE, requested("r3", AFTER_M1)).when(ask("r2")).then(requested("r2"))
    back = HeadMoved(item_id="m3", depth=3, path=(PathBranch(0, 3, 4),))
    given(*running, MOVED_TO_M2, back).when(ask("r2")).refused(ConversationLocked)


def test_an_interrupted_regeneration_becomes_a_sibling_only_if_stopped_replies_are_kept() -> None:
    interrupt = InterruptReply(
        response_id="r1",
        author="ann",
        code="process_died",
        output=(InputItem(item_id="n2", item=b'{"type": "reasoning"}'),),
    )
    dropped = ReplyInterrupted(response_id="r1", code="process_died", output=interrupt.output)
    given(*THREE, requested("r1", AFTER_M1)).when(interrupt).then(dropped)
    keeps = started(context_policy=ContextPolicy(stopped="keep"))
    given(keeps, *THREE[1:], requested("r1", AFTER_M1)).when(interrupt).then(
        appended("n2", 2, "m1", branch=6, response_id="r1", leaves=AFTER_M1.path, item=interrupt.output[0].item),
        HeadMoved(item_id="n2", depth=2, path=(*AFTER_M1.path, PathBranch(6))),
        ReplyInterrupted(response_id="r1", code="process_died", output_ids=("n2",)),
    )


def test_a_reply_is_refused_if_its_context_was_read_before_the_head_moved() -> None:
    given(*THREE, MOVED_TO_M2).when(ask("r1", version=4)).refused(PathHasChanged)
    given(*THREE, MOVED_TO_M2).when(ask("r1", version=5)).then(
        replace(requested("r1"), shown=replace(SHOWN, version=5))
    )
    given(*THREE, MOVED_TO_M2).when(ask("r1", AFTER_M1, version=4)).then(
        replace(requested("r1", AFTER_M1), shown=replace(SHOWN, version=4))
    )


def test_a_reply_that_must_be_alone_is_refused_beside_another() -> None:
    alone = replace(ask("r2", AFTER_M1), alone=True)
    at_head = replace(ask("r2", Leaf("m3", 3, (PathBranch(0, 3, 4),))), alone=True)
    given(*THREE, requested("r1", AFTER_M1)).when(alone).refused(ConversationLocked)
    given(*THREE, requested("r1", AFTER_M1)).when(ask("r2", AFTER_M1)).then(requested("r2", AFTER_M1))
    given(*THREE, requested("r1")).when(at_head).refused(ConversationLocked)
    given(*THREE, requested("r1")).when(alone).then(requested("r2", AFTER_M1))
    queued = ReplyQueued(response_id="r1", model="m", parameters=b"{}", input=(), renderer=1)
    given(*THREE, queued).when(at_head).refused(ConversationLocked)
    given(*THREE, queued).when(alone).then(requested("r2", AFTER_M1))


@pytest.mark.parametrize("command", [REVISE_M2, ask("r1", AFTER_M1), append("n1"), ask("r1")])
def test_a_conversation_and_a_path_have_a_maximum_number_of_branches(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Leaf(
        "m1", 1, tuple(PathBranch(number, number, number) for number in range(appended_items.MAX_PATH_BRANCHES))
    )
    events = (*THREE, *REVISED_M2, MOVED_TO_M2)
    state = given(*events).state
    assert state is not None
    known_items = {"m2": KnownItem(branch=0, depth=2)}
    assert decide(CONVERSATION, state, command, known_items)
    full = replace(state, branches=appended_items.MAX_BRANCHES)
    with pytest.raises(TooManyBranches):
        decide(CONVERSATION, full, command, known_items)
    deep = replace(state, path=many.path)
    match command:
        case ReviseItem():
            command = replace(command, leaf=many)
        case RequestReply() if command.after:
            command = replace(command, after=many)
    with pytest.raises(TooManyBranches):
        decide(CONVERSATION, deep, command, known_items)


class Tree(Struct):
    """A model of a conversation's items and replies.

    `reply_leaves`: for each running reply that is not in `at_head`, the item that the reply's items will follow.
    """

    parents: dict[str, str | None] = field(default_factory=dict)
    head: str | None = None
    reply_leaves: dict[str, str | None] = field(default_factory=dict)
    heads_at_request: dict[str, str | None] = field(default_factory=dict)
    """For each reply that named its leaf, the head when the reply was requested."""
    at_head: set[str] = field(default_factory=set)

    def path(self, item: str | None) -> list[str]:
        path: list[str] = []
        while item is not None:
            path.insert(0, item)
            item = self.parents[item]
        return path

    def add(self, parent: str | None, item_ids: list[str]) -> None:
        for item_id in item_ids:
            self.parents[item_id], parent = parent, item_id

    def move(self, item: str) -> None:
        if item == self.head:
            return
        for reply in self.at_head:
            self.reply_leaves[reply] = self.head
        self.at_head = {
            reply for reply, leaf in self.reply_leaves.items() if leaf == item and reply not in self.heads_at_request
        }
        self.reply_leaves = {reply: leaf for reply, leaf in self.reply_leaves.items() if reply not in self.at_head}
        self.head = item


class Walk:
    """Sends random commands to `decide` and to the model."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.log: list[Event] = [started()]
        self.state: Conversation | None = evolve(None, self.log[0])
        self.known_items: dict[str, KnownItem] = {}
        self.minted = 0

    def mint(self, count: int) -> list[str]:
        self.minted += count
        return [f"m{number}" for number in range(self.minted - count, self.minted)]

    def send(self, command: Command) -> None:
        for event in decide(CONVERSATION, self.state, command, self.known_items):
            self.state = evolve(self.state, event)
            self.log.append(event)
            if event.row_key and (item := evolve_item(self.known_items.get(event.row_key), event)):
                self.known_items[event.row_key] = item

    def appended(self, item_id: str) -> tuple[ItemAppended, int, ItemAppended | None]:
        """The event of an item, the event's version, and the event that opened the branch (None: branch 0)."""
        for version, event in enumerate(self.log, 1):
            if isinstance(event, ItemAppended) and event.item_id == item_id:
                opening = self.log[event.branch - 1] if event.branch else None
                assert opening is None or isinstance(opening, ItemAppended)
                return event, version, opening
        raise AssertionError(item_id)

    def step(self, chance: random.Random) -> None:
        tree, item = self.tree, chance.choice([*self.tree.parents, None])
        action = chance.choice(["append", "append", "revise", "move", "ask", "regenerate", "complete", "complete"])
        if action == "append":
            new = self.mint(chance.randint(1, 3))
            self.send(append(*new))
            tree.add(tree.head, new)
            tree.head = new[-1]
        elif action == "revise" and item:
            [new_id] = self.mint(1)
            leaf = leaf_before(*self.appended(item))
            self.send(ReviseItem(item_id=item, item=NewItem(item_id=new_id, item=b"{}"), author="ann", leaf=leaf))
            tree.add(tree.parents[item], [new_id])
            if tree.parents[item] == tree.head:
                tree.head = new_id
            tree.move(new_id)
        elif action == "move" and item:
            self.send(MoveHead(item_id=item, path=up_to_item(*self.appended(item))))
            tree.move(item)
        elif action == "ask" and not tree.at_head:
            [reply] = self.mint(1)
            self.send(ask(reply))
            tree.at_head.add(reply)
        elif action == "regenerate" and item:
            [reply] = self.mint(1)
            self.send(ask(reply, leaf_before(*self.appended(item))))
            tree.reply_leaves[reply], tree.heads_at_request[reply] = tree.parents[item], tree.head
        elif action == "complete" and (tree.at_head or tree.reply_leaves):
            self.complete(chance.choice(sorted((*tree.at_head, *tree.reply_leaves))), self.mint(chance.randint(1, 3)))

    def complete(self, reply: str, new: list[str]) -> None:
        tree = self.tree
        self.send(complete(reply, *new))
        if reply in tree.at_head:
            tree.at_head.remove(reply)
            tree.add(tree.head, new)
            tree.head = new[-1]
            return
        leaf = tree.reply_leaves.pop(reply)
        tree.add(leaf, new)
        if reply in tree.heads_at_request and tree.head in (tree.heads_at_request[reply], leaf):
            tree.move(new[0])
            tree.head = new[-1]

    def check(self) -> None:
        tree, state = self.tree, self.state
        assert state is not None
        items = {
            event.item_id: (event, version)
            for version, event in enumerate(self.log, 1)
            if isinstance(event, ItemAppended)
        }
        assert {item_id: event.parent_id for item_id, (event, _) in items.items()} == tree.parents
        moved = [event.path for event in self.log if isinstance(event, HeadMoved)]
        assert state.path == (moved[-1] if moved else FIRST_BRANCH)
        assert (state.head, state.depth) == (tree.head, len(tree.path(tree.head)))
        assert state.branches == sum(event.branch == version for event, version in items.values())
        assert {*state.at_head} == tree.at_head
        paths: dict[str | None, tuple[PathBranch, ...]] = {
            tree.head: state.path,
            **{reply.leaf.item_id: reply.leaf.path for reply in state.running if reply.leaf},
            **{item_id: up_to_item(*self.appended(item_id)) for item_id in items},
        }
        assert {reply.response_id: reply.leaf.item_id for reply in state.running if reply.leaf} == tree.reply_leaves
        for last, path in paths.items():
            on_path = [event.item_id for event, _ in items.values() if takes(path, event.branch, event.depth)]
            assert sorted(on_path, key=lambda item_id: items[item_id][0].depth) == tree.path(last)
            for taken in path:
                bound = taken.last_version or len(self.log)
                assert all(
                    version <= bound
                    for event, version in items.values()
                    if event.item_id in on_path and event.branch == taken.branch
                )
        segment = PathSegment(CONVERSATION, len(self.log), state.path)
        assert all(
            segment.contains(event.branch, event.depth, version)
            for event, version in items.values()
            if event.item_id in tree.path(tree.head)
        )


def check_random_walk(chance: random.Random, steps: int) -> None:
    walk = Walk()
    for _ in range(steps):
        walk.step(chance)
        walk.check()


@for_any(st.randoms(use_true_random=False), st.integers(1, 25))
def test_after_any_commands_each_path_leads_to_its_last_item(chance: random.Random, steps: int) -> None:
    check_random_walk(chance, steps)


@pytest.mark.endless
@pytest.mark.parametrize("seed", range(2_000))
def test_after_many_commands_each_path_leads_to_its_last_item(seed: int) -> None:
    check_random_walk(random.Random(seed), 60)
