"""The events with which items join a conversation, at the head or on a new branch. Pure."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from domain.commands import NewItem
from domain.conversation import Conversation, leaf_at_head
from domain.errors import TooManyBranches
from domain.events import Event, HeadMoved, InputItem, ItemAppended, Leaf, PathBranch
from domain.paths import is_open

MAX_BRANCHES = 10_000
"""The first branch is not counted. Running replies may open a few more."""

MAX_PATH_BRANCHES = 2_000


def append_at_head(
    state: Conversation, items: Sequence[NewItem | InputItem], author: str, response_id: str | None = None
) -> Iterator[Event]:
    if not is_open(state.path):
        return open_branch(state, leaf_at_head(state), items, author, response_id=response_id)
    return append_after(
        items, author=author, parent=state.head, branch=state.branch, depth=state.depth, response_id=response_id
    )


def open_branch(
    state: Conversation,
    leaf: Leaf,
    items: Sequence[NewItem | InputItem],
    author: str,
    *,
    response_id: str | None = None,
    revises: str | None = None,
    aside: bool = False,
) -> Iterator[Event]:
    """Opens a branch after `leaf`. The head moves to the branch, unless `aside`.

    These events must be appended next, because the branch's number is the version of its first item.
    """
    branch = state.version + 1
    appended = append_after(
        items, author=author, parent=leaf.item_id, branch=branch, depth=leaf.depth, response_id=response_id
    )
    for index, event in enumerate(appended):
        if index:
            yield replace(event, aside=aside)
            continue
        yield replace(event, leaves=leaf.path, revises=revises, aside=aside)
        if not aside:
            yield HeadMoved(item_id=event.item_id, depth=event.depth, path=(*leaf.path, PathBranch(branch)))
        elif state.head is not None and not state.moved_at:  # readers look for branches only if there is a HeadMoved
            yield HeadMoved(item_id=state.head, depth=state.depth, path=state.path)


def check_branches(state: Conversation, leaf: Leaf) -> None:
    """Raises TooManyBranches."""
    if state.branches + sum(reply.leaf is not None for reply in state.running) >= MAX_BRANCHES:
        raise TooManyBranches(
            f"No further branch can be opened in conversation {state.id}: the limit is {MAX_BRANCHES}."
        )
    if len(leaf.path) >= MAX_PATH_BRANCHES:
        raise TooManyBranches(f"The path to this item takes {MAX_PATH_BRANCHES} branches, the most that it may take.")


def append_after(
    items: Sequence[NewItem | InputItem],
    *,
    author: str,
    parent: str | None,
    branch: int,
    depth: int,
    response_id: str | None,
) -> Iterator[ItemAppended]:
    """Each item is the parent of the item after it. `depth`: the depth of `parent`."""
    for distance, new_item in enumerate(items, 1):
        yield ItemAppended(
            item_id=new_item.item_id,
            parent_id=parent,
            branch=branch,
            depth=depth + distance,
            item=new_item.item,
            author=author,
            response_id=response_id,
            copy_of=new_item.copy_of,
        )
        parent = new_item.item_id
