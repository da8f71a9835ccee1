"""Paths through the branches of a conversation, and through the conversations that a fork comes from. Pure.

The place of an item is its conversation, branch and depth. A path leads through branches to a last item. In a fork, the
path first goes through the conversations that the fork comes from. A path has one item at each depth.

Every path begins on branch 0. A fork's inherited items count as the beginning of branch 0. The number of any other
branch is the version of the event that opened the branch.
"""

from bisect import bisect_left, bisect_right

from msgspec import Struct
from msgspec.structs import replace

from domain.events import Fork, ItemAppended, Leaf, PathBranch

FIRST_BRANCH = (PathBranch(0),)


def is_open(branches: tuple[PathBranch, ...]) -> bool:
    """Whether the path follows its last branch to the end. Appending to any other path opens a branch."""
    return branches[-1].last_depth is None


def takes(branches: tuple[PathBranch, ...], branch: int, depth: int) -> bool:
    """Whether the path has an item at this depth of the branch, or may get one."""
    index = bisect_left(branches, branch, key=_number)
    if index == len(branches) or branches[index].branch != branch:
        return False
    last = branches[index].last_depth
    return last is None or depth <= last


def common_depth(first: tuple[PathBranch, ...], second: tuple[PathBranch, ...]) -> int:
    """The depth of the last item that both paths have. The paths must not both follow one branch to its end."""
    depth = 0
    for of_first, of_second in zip(first, second, strict=False):
        if of_first.branch != of_second.branch:
            break
        depth = min(end for end in (of_first.last_depth, of_second.last_depth) if end is not None)
        if of_first.last_depth != of_second.last_depth:
            break
    return depth


def up_to_item(event: ItemAppended, version: int, opening: ItemAppended | None) -> tuple[PathBranch, ...]:
    """The path that ends with the item.

    `version`: the item's version. `opening`: the event that opened its branch; None for branch 0.
    """
    return (*(opening.leaves if opening else ()), PathBranch(event.branch, event.depth, version))


def up_to_parent(event: ItemAppended, version: int, opening: ItemAppended | None) -> tuple[PathBranch, ...]:
    """The path that ends with the item's parent. The arguments are as in `up_to_item`."""
    if event.branch == version:
        return event.leaves
    before = (*(opening.leaves if opening else ()), PathBranch(event.branch, event.depth - 1, version - 1))
    return before if event.depth > 1 else (PathBranch(0, 0, 0),)


def leaf_before(event: ItemAppended, version: int, opening: ItemAppended | None) -> Leaf:
    """The leaf after which the item was appended. The arguments are as in `up_to_item`."""
    return Leaf(event.parent_id, event.depth - 1, up_to_parent(event, version, opening))


class PathSegment(Struct, frozen=True):
    """The part of a path that lies in one conversation, as it was at `version`.

    `active_since`: the version of the last HeadMoved, if this is the active path and it is not open.
    """

    conversation_id: str
    version: int
    branches: tuple[PathBranch, ...] = FIRST_BRANCH
    active_since: int | None = None

    @property
    def last_depth(self) -> int | None:
        """None: the segment follows its last branch to the end."""
        return self.branches[-1].last_depth

    def contains(self, branch: int, depth: int, version: int) -> bool:
        """`version`: the item's version."""
        return version <= self.version and takes(self.branches, branch, depth)

    def newest_version(self, until: int) -> int:
        """The newest version <= `until` that may be on the path; 0 if there is none."""
        until = min(until, self.version)
        if self.active_since is not None and until > self.active_since:
            return until
        for taken in reversed(self.branches[: bisect_right(self.branches, until, key=_number)]):
            last = until if taken.last_version is None else min(until, taken.last_version)
            if last >= taken.branch:
                return last
        return 0

    def oldest_version(self, after: int) -> int | None:
        """The oldest version > `after` that an item of the path may have."""
        index = bisect_right(self.branches, after + 1, key=_number)
        for taken in self.branches[max(index - 1, 0) :]:
            first = max(taken.branch, after + 1)
            last = self.version if taken.last_version is None else min(self.version, taken.last_version)
            if first <= last:
                return first
        return None

    def up_to(self, depth: int) -> "PathSegment":
        for index, taken in enumerate(self.branches):
            if taken.last_depth is None or taken.last_depth >= depth:
                cut = PathBranch(taken.branch, depth, taken.last_version)
                return replace(self, branches=(*self.branches[:index], cut), active_since=None)
        return self

    def origin(self, fork: Fork) -> "PathSegment":
        """The part of the path in the conversation that this one was forked from. `fork`: where this one was forked."""
        before, kept = origin_of(fork), self.branches[0].last_depth
        return before if kept is None or kept >= fork.depth else before.up_to(kept)


def origin_of(fork: Fork) -> PathSegment:
    """The path that a fork inherits."""
    return PathSegment(fork.conversation_id, fork.version, fork.branches or FIRST_BRANCH).up_to(fork.depth)


class Path(Struct, frozen=True):
    """The segments are in order, oldest first. Only a fork's path has more than one segment."""

    segments: tuple[PathSegment, ...]

    @property
    def end(self) -> PathSegment:
        return self.segments[-1]

    @property
    def conversations(self) -> list[str]:
        return [segment.conversation_id for segment in self.segments]

    def contains(self, conversation_id: str, branch: int, depth: int, version: int) -> bool:
        """`version`: the item's version in its conversation."""
        return any(
            segment.conversation_id == conversation_id and segment.contains(branch, depth, version)
            for segment in self.segments
        )

    def after_origin(self, fork: Fork) -> "Path":
        """Adds a segment at the start. `fork`: where the first conversation was forked."""
        return Path((self.segments[0].origin(fork), *self.segments))


def _number(taken: PathBranch) -> int:
    return taken.branch
