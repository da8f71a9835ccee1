"""Says which items a conversation has, or had at a version: through its branches, and through the conversations that a fork comes from. Pure.

The place of an item is its conversation, its branch and its depth. A path leads from a first item to a last one. It goes through branches of
a conversation. In a fork, it first goes through the conversations that the fork comes from. Each item of a path is one deeper than the one
before, so a path has one item at each depth. Other branches have other items at the same depths, so a depth alone does not name an item.

Every path of a conversation begins on branch 0. In a fork, the inherited items count as the beginning of branch 0. A path that leaves
these items has branch 0 with the depth of the last inherited item that it keeps. The number of any other branch is the version of the event that opened it. So the numbers of a path's branches rise,
and so do the depths and versions at which it leaves them.

Every reader of items filters by a path: the log (`contains`), the view `items` (`projections/views/items.py: item_ranges`).
"""

from bisect import bisect_left, bisect_right

from msgspec import Struct
from msgspec.structs import replace

from domain.events import Fork, ItemAppended, Leaf, PathBranch

FIRST_BRANCH = (PathBranch(0),)
"""The path along the first branch to its end."""


def is_open(branches: tuple[PathBranch, ...]) -> bool:
    """Whether the path follows its last branch to the end. If not, it ends with an item, and what is appended there opens a branch."""
    return branches[-1].last_depth is None


def takes(branches: tuple[PathBranch, ...], branch: int, depth: int) -> bool:
    """Whether the path through these branches has the item at this place."""
    index = bisect_left(branches, branch, key=_number)
    if index == len(branches) or branches[index].branch != branch:
        return False
    last = branches[index].last_depth
    return last is None or depth <= last


def common_depth(first: tuple[PathBranch, ...], second: tuple[PathBranch, ...]) -> int:
    """The depth of the last item that two paths of a conversation have in common. `second` ends with an item."""
    depth = 0
    for of_first, of_second in zip(first, second, strict=False):
        if of_first.branch != of_second.branch:
            break
        depth = min(end for end in (of_first.last_depth, of_second.last_depth) if end is not None)
        if of_first.last_depth != of_second.last_depth:
            break
    return depth


def up_to_item(event: ItemAppended, version: int, opening: ItemAppended | None) -> tuple[PathBranch, ...]:
    """The path that ends with an item. `version`: the version at which the item was appended. `opening`: the event that opened its branch; None for branch 0."""
    return (*(opening.leaves if opening else ()), PathBranch(event.branch, event.depth, version))


def up_to_parent(event: ItemAppended, version: int, opening: ItemAppended | None) -> tuple[PathBranch, ...]:
    """The path that ends with the parent of an item. The arguments are those of `up_to_item`."""
    if event.branch == version:
        return event.leaves
    before = (*(opening.leaves if opening else ()), PathBranch(event.branch, event.depth - 1, version - 1))
    return before if event.depth > 1 else (PathBranch(0, 0, 0),)


def leaf_before(event: ItemAppended, version: int, opening: ItemAppended | None) -> Leaf:
    """The place of an item's parent. The arguments are those of `up_to_item`."""
    return Leaf(event.parent_id, event.depth - 1, up_to_parent(event, version, opening))


class PathSegment(Struct, frozen=True):
    """The part of a path that lies in one conversation, as it was at `version`. `branches`: those that the path takes, first to last.

    `active_since`: the version at which a client moved the head to the end of the path. Requests since then were
    made on this path. None: it is not the active path, or no client moved the head there.
    """

    conversation_id: str
    version: int
    branches: tuple[PathBranch, ...] = FIRST_BRANCH
    active_since: int | None = None

    @property
    def last_depth(self) -> int | None:
        """The depth at which the segment ends. None: at the end of its last branch."""
        return self.branches[-1].last_depth

    def contains(self, branch: int, depth: int, version: int) -> bool:
        """Whether an item of the conversation is in this segment. `version`: the version at which the item was appended."""
        return version <= self.version and takes(self.branches, branch, depth)

    def newest_version(self, until: int) -> int:
        """The newest version <= `until` that the path may have an event at. 0 if there is none.

        The versions of a branch's items are almost without gaps, so this skips what other branches have.
        """
        until = min(until, self.version)
        if self.active_since is not None and until > self.active_since:
            return until
        for taken in reversed(self.branches[: bisect_right(self.branches, until, key=_number)]):
            last = until if taken.last_version is None else min(until, taken.last_version)
            if last >= taken.branch:
                return last
        return 0

    def oldest_version(self, after: int) -> int | None:
        """The oldest version > `after` that an item of the path may have. None if there is none."""
        index = bisect_right(self.branches, after + 1, key=_number)
        for taken in self.branches[max(index - 1, 0) :]:
            first = max(taken.branch, after + 1)
            last = self.version if taken.last_version is None else min(self.version, taken.last_version)
            if first <= last:
                return first
        return None

    def up_to(self, depth: int) -> "PathSegment":
        """The segment without the items that are deeper than `depth`."""
        for index, taken in enumerate(self.branches):
            if taken.last_depth is None or taken.last_depth >= depth:
                cut = PathBranch(taken.branch, depth, taken.last_version)
                return replace(self, branches=(*self.branches[:index], cut), active_since=None)
        return self

    def origin(self, fork: Fork) -> "PathSegment":
        """The segment before this one. `fork`: where this segment's conversation was forked."""
        before, kept = origin_of(fork), self.branches[0].last_depth
        return before if kept is None or kept >= fork.depth else before.up_to(kept)


def origin_of(fork: Fork) -> PathSegment:
    """The last segment that a fork inherits."""
    return PathSegment(fork.conversation_id, fork.version, fork.branches or FIRST_BRANCH).up_to(fork.depth)


class Path(Struct, frozen=True):
    """The segments of a path, oldest first. The path of a conversation that is no fork has one segment."""

    segments: tuple[PathSegment, ...]

    @property
    def end(self) -> PathSegment:
        """The newest segment."""
        return self.segments[-1]

    @property
    def conversations(self) -> list[str]:
        """The conversations of the segments, oldest first."""
        return [segment.conversation_id for segment in self.segments]

    def contains(self, conversation_id: str, branch: int, depth: int, version: int) -> bool:
        """Whether an item is on the path. `version`: the version at which the item was appended to its conversation."""
        return any(
            segment.conversation_id == conversation_id and segment.contains(branch, depth, version)
            for segment in self.segments
        )

    def after_origin(self, fork: Fork) -> "Path":
        """The path with one more segment at its start. `fork`: where the conversation of the first segment so far was forked."""
        return Path((self.segments[0].origin(fork), *self.segments))


def _number(taken: PathBranch) -> int:
    return taken.branch
