"""A Path contains exactly the items that lead to its last item.

scripts/test tests/domain/test_paths.py -m endless     three thousand random families of conversations
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from domain.events import Fork, PathBranch
from domain.paths import FIRST_BRANCH, Path, PathSegment, origin_of


class Item(Struct, frozen=True):
    """An item of the model. Its parent may be in another conversation."""

    conversation_id: str
    branch: int
    depth: int
    version: int
    parent: "Item | None"

    def back_to_first(self) -> Iterator["Item"]:
        item: Item | None = self
        while item is not None:
            yield item
            item = item.parent


class Conversation:
    """A model of a conversation. `leaves` maps a branch to the path up to the item after which the branch begins.
    `ends` has, by version, the last item of the active path, and this path.
    """

    def __init__(self, conversation_id: str, fork: Fork | None = None, origin: Item | None = None) -> None:
        self.id = conversation_id
        self.fork = fork
        self.origin = origin
        self.items: list[Item] = []
        self.leaves: dict[int, tuple[PathBranch, ...]] = {0: ()}
        self.ends: list[tuple[Item | None, tuple[PathBranch, ...]]] = [(None, FIRST_BRANCH), (origin, FIRST_BRANCH)]
        """The first entry is for version 0."""

    @property
    def version(self) -> int:
        return len(self.ends) - 1

    @property
    def inherited(self) -> list[Item]:
        return [*self.origin.back_to_first()] if self.origin else []

    def append(self, branch: int, parent: Item | None) -> None:
        item = Item(self.id, branch, parent.depth + 1 if parent else 1, self.version + 1, parent)
        self.items.append(item)
        self.ends.append((item, (*self.leaves[branch], PathBranch(branch))))

    def branches_to(self, item: Item | None) -> tuple[PathBranch, ...]:
        """The path up to an own or inherited item. None: the path before the first item."""
        if item is None or item.conversation_id != self.id:
            return (PathBranch(0, item.depth if item else 0, 0),)
        return (*self.leaves[item.branch], PathBranch(item.branch, item.depth, item.version))

    def open_branch(self, parent: Item | None) -> None:
        self.leaves[self.version + 1] = self.branches_to(parent)
        self.append(self.version + 1, parent)


class Family(dict[str, Conversation]):
    def path_at(self, conversation: Conversation, version: int) -> Path:
        _, branches = conversation.ends[version]
        path, fork = Path((PathSegment(conversation.id, version, branches),)), conversation.fork
        while fork is not None:
            path = path.after_origin(fork)
            fork = self[fork.conversation_id].fork
        return path


def check_random_family(chance: random.Random) -> None:
    family = Family({"0": Conversation("0")})
    for _ in range(chance.randint(1, 40)):
        conversation = chance.choice([*family.values()])
        action = chance.random()
        if action < 0.6:
            head, branches = conversation.ends[-1]
            conversation.append(branches[-1].branch, head)
        elif action < 0.8 and conversation.items:
            conversation.open_branch(chance.choice([None, *conversation.inherited, *conversation.items]))
        else:
            version = chance.randint(1, conversation.version)
            if (head := conversation.ends[version][0]) is not None:
                origin, number = chance.choice([*head.back_to_first()]), str(len(family))
                fork = Fork(
                    conversation_id=conversation.id,
                    item_id="msg",
                    version=version,
                    depth=origin.depth,
                    branches=chance.choice([conversation.ends[version][1], conversation.branches_to(origin)]),
                )
                family[number] = Conversation(number, fork, origin)
    everything = [item for conversation in family.values() for item in conversation.items]
    for conversation in family.values():
        for version in range(1, conversation.version + 1):
            path, head = family.path_at(conversation, version), conversation.ends[version][0]
            on_path = {
                (item.conversation_id, item.version)
                for item in everything
                if path.contains(item.conversation_id, item.branch, item.depth, item.version)
            }
            assert on_path == {(item.conversation_id, item.version) for item in (head.back_to_first() if head else ())}


@given(st.randoms(use_true_random=False))
def test_a_path_has_the_items_that_lead_to_its_last_item(
    chance: random.Random,
) -> None:
    check_random_family(chance)


@pytest.mark.endless
@pytest.mark.parametrize("seed", range(3_000))
def test_a_path_in_many_families_has_the_items_that_lead_to_its_last_item(seed: int) -> None:
    check_random_family(random.Random(seed))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=1, max_size=5))
def test_a_path_has_the_items_of_each_conversation_up_to_the_next_fork(
    chain: list[tuple[int, int]],
) -> None:
    expected: list[tuple[str, int, int]] = []
    everything: list[tuple[str, int, int]] = []
    forks: list[Fork] = []
    for number, (items, _) in enumerate(chain):
        if number:
            depth = min(chain[number - 1][1], len(expected))
            if depth == 0:
                return
            version = max((item[2] for item in everything if item[0] == str(number - 1)), default=1)
            forks.append(Fork(conversation_id=str(number - 1), item_id="msg", version=version, depth=depth))
            expected = expected[:depth]
        own = [(str(number), len(expected) + count, 1 + count) for count in range(1, items + 1)]
        expected += own
        everything += own
    path = Path((PathSegment(str(len(chain) - 1), 1 + chain[-1][0]),))
    for fork in reversed(forks):
        path = path.after_origin(fork)
    assert [item for item in everything if path.contains(item[0], 0, item[1], item[2])] == expected


def test_later_and_deeper_items_of_the_origin_are_not_on_the_path_of_a_fork() -> None:
    origin = origin_of(Fork(conversation_id="a", item_id="msg", version=5, depth=4))
    assert origin.contains(0, 4, 5)
    assert not origin.contains(0, 5, 5)
    assert not origin.contains(0, 4, 6)
    assert not origin.contains(1, 4, 5)
    assert origin.last_depth == 4
    assert Path((origin,)).end == origin


def test_the_method_up_to_makes_no_segment_longer() -> None:
    segment = PathSegment("a", 9, (PathBranch(0, 2, 2), PathBranch(3, 6, 8)))
    assert segment.up_to(8) == segment
    assert segment.up_to(6) == segment
    assert segment.up_to(5) == replace(segment, branches=(PathBranch(0, 2, 2), PathBranch(3, 5, 8)))
    assert segment.up_to(2) == replace(segment, branches=(PathBranch(0, 2, 2),))
    assert segment.up_to(1) == replace(segment, branches=(PathBranch(0, 1, 2),))


def test_a_reader_of_a_path_skips_the_versions_of_other_branches() -> None:
    segment = PathSegment("a", 99, (PathBranch(0, 2, 5), PathBranch(20, 6, 24), PathBranch(50)))
    ends = {99: 99, 50: 50, 49: 24, 21: 21, 20: 20, 19: 5, 1: 1, 0: 0}
    assert {until: segment.newest_version(until) for until in ends} == ends
    starts = {0: 1, 4: 5, 5: 20, 23: 24, 24: 50, 98: 99, 99: None}
    assert {after: segment.oldest_version(after) for after in starts} == starts
    assert segment.newest_version(200) == 99
    closed = segment.up_to(5)
    assert (closed.newest_version(99), closed.oldest_version(24)) == (24, None)
    # Since version `active_since`, requests are made on this path.
    active = replace(closed, active_since=90)
    assert (active.newest_version(99), active.newest_version(90)) == (99, 24)
    # The path leaves branch 0 at an inherited item, so nothing of branch 0 is read.
    inherited = replace(segment, branches=(PathBranch(0, 2, 0), PathBranch(20)))
    assert (inherited.newest_version(19), inherited.oldest_version(0)) == (0, 20)
