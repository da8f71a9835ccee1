"""Compares the items of a conversation's paths with the model, in both orders, in small and in large pages."""

from typing import Any

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.model_parts import ModelItem
from tests.conversations.reads import ConversationReads

SMALL_PAGE, LARGE_PAGE = 8, 100
CHECKED_INNER_ITEMS = 1
CHECKED_BRANCHES = 1
CHECKED_VERSIONS = 1


async def check_paths(reads: ConversationReads, conversation: ModelConversation) -> None:
    """The active path, the path to each leaf, and paths to at most CHECKED_INNER_ITEMS inner items."""
    await _check_path(reads, conversation, conversation.head)
    leaves = conversation.leaves
    inner = [item for item in conversation.nodes if item not in leaves]
    for leaf in (*leaves, *inner[:: len(inner) // CHECKED_INNER_ITEMS + 1]):
        await _check_path(reads, conversation, leaf, leaf=leaf.id)


async def check_branches(reads: ConversationReads, conversation: ModelConversation, nodes: list[Any]) -> None:
    """`nodes`: the nodes of the tree."""
    ends = {node["branch"]: conversation.item(node["id"]) for node in nodes}
    for branch in sorted(ends)[-CHECKED_BRANCHES:]:
        await _check_path(reads, conversation, ends[branch], branch=branch)


async def check_versions(reads: ConversationReads, conversation: ModelConversation) -> None:
    """Forks are left out, because their old versions change with the origin."""
    states = [] if conversation.origin else [*conversation.states.items()]
    for version, state in states[:: len(states) // CHECKED_VERSIONS + 1]:
        entries = await reads.all("/items", LARGE_PAGE, order="asc", as_of=version)
        assert [entry["id"] for entry in entries] == [item.id for item in state.shown]


async def _check_path(
    reads: ConversationReads, conversation: ModelConversation, last: ModelItem | None, **parameters: Any
) -> None:
    entries = await reads.all("/items", SMALL_PAGE, order="asc", **parameters)
    shown = conversation.shown(last)
    listed, wanted = [entry["id"] for entry in entries], [item.id for item in shown]
    if listed != wanted:
        repeated = [entry["id"] for entry in await reads.all("/items", SMALL_PAGE, order="asc", **parameters)]
        message = f"{conversation.id} {parameters}: {listed}, not {wanted}. Read once more: {repeated}"
        raise AssertionError(message)
    for entry, item in zip(entries, shown, strict=True):
        assert (entry["content"][0]["text"], entry["role"], entry["author"]) == (item.text, item.role, item.author)
        siblings = conversation.siblings(item)
        expected = {"index": siblings.index(item), "count": len(siblings)}
        assert entry.get("siblings", {"index": 0, "count": 1}) == expected
    assert await reads.all("/items", LARGE_PAGE, order="desc", **parameters) == entries[::-1]
