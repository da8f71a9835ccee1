"""Says which items a conversation has, or had at a version: through its branches, and through the conversations that a fork comes from. Pure.

The place of an item is its conversation, its branch and its depth. A path leads from a first item to a last one. It goes through branches of
a conversation. In a fork, it first goes through the conversations that the fork comes from. Each item of a path is one deeper than the one
before, so a path has one item at each depth. Other branches have other items at the same depths, so a depth alone does not name an item.

Every reader of items filters by a path: the log (`contains`), the view `items` (`projections/views/items.py: items_on`).
"""

from msgspec import Struct
from msgspec.structs import replace

from domain.events import Fork


class PathSegment(Struct, frozen=True):
    """The part of a path that lies in one conversation, as it was at `version`.

    `branches`: (branch, last depth) of each branch that the path takes, first to last. The path leaves the branch after the last depth. If
    that is None, it follows the branch to its end.
    """

    conversation_id: str
    version: int
    branches: tuple[tuple[int, int | None], ...] = ((0, None),)

    @property
    def last_depth(self) -> int | None:
        """The depth at which the segment ends. None: at the end of its last branch."""
        return self.branches[-1][1]

    def contains(self, branch: int, depth: int, version: int) -> bool:
        """Whether an item of the conversation is in this segment. `version`: the version at which the item was appended."""
        if version > self.version:
            return False
        for taken, last in self.branches:
            if taken == branch:
                return last is None or depth <= last
        return False

    def up_to(self, depth: int) -> "PathSegment":
        """The segment without the items that are deeper than `depth`."""
        for index, (branch, last) in enumerate(self.branches):
            if last is None or last >= depth:
                return replace(self, branches=(*self.branches[:index], (branch, depth)))
        return self

    def origin(self, fork: Fork) -> "PathSegment":
        """The segment before this one. `fork`: where this segment's conversation was forked."""
        before = origin_of(fork)
        return before if self.last_depth is None else before.up_to(self.last_depth)


def origin_of(fork: Fork) -> PathSegment:
    """The last segment that a fork inherits."""
    return PathSegment(fork.conversation_id, fork.version).up_to(fork.depth)


class Path(Struct, frozen=True):
    """The segments of a path, oldest first. The path of a conversation that is no fork has one segment."""

    segments: tuple[PathSegment, ...]

    @property
    def end(self) -> PathSegment:
        """The newest segment."""
        return self.segments[-1]

    def contains(self, conversation_id: str, branch: int, depth: int, version: int) -> bool:
        """Whether an item is on the path. `version`: the version at which the item was appended to its conversation."""
        return any(
            segment.conversation_id == conversation_id and segment.contains(branch, depth, version)
            for segment in self.segments
        )

    def after_origin(self, fork: Fork) -> "Path":
        """The path with one more segment at its start. `fork`: where the conversation of the first segment so far was forked."""
        return Path((self.segments[0].origin(fork), *self.segments))
