"""Writes a conversation with branches, and computes in memory what readers must find."""

from random import Random
from typing import Any

from msgspec import Struct

from domain.commands import AppendItems, MoveHead, ReviseItem
from domain.events import Event, HeadMoved, ItemAppended, ItemRetracted, Leaf, PathBranch
from tests.queries.writer import Writer, new_items


class Node(Struct):
    """An item as this module knows it.

    `path`: the branches on the path to the item. The last branch is the item's branch.
    """

    id: str
    parent: str | None
    branch: int
    depth: int
    version: int
    path: tuple[PathBranch, ...]
    retracted_version: int | None = None

    def exists(self, version: int) -> bool:
        return self.version <= version and (self.retracted_version is None or self.retracted_version > version)


class BranchedConversation:
    """Writes to a conversation and remembers its items.

    `last_items`: (version, the last item of the active path from this version on).
    """

    def __init__(self, write: Writer, conversation_id: str) -> None:
        self._write = write
        self.id = conversation_id
        self.version = 1
        self.nodes: dict[str, Node] = {}
        self.last_items: list[tuple[int, str]] = []

    async def append(self, *texts: str) -> list[str]:
        return await self._execute(AppendItems(items=new_items(texts), author="ann"))

    async def revise(self, item_id: str, text: str) -> str:
        leaf = self._leaf_before(self.nodes[item_id])
        [item] = new_items([text])
        [new] = await self._execute(ReviseItem(item_id=item_id, item=item, author="bob", leaf=leaf))
        return new

    async def move(self, item_id: str) -> None:
        await self._execute(MoveHead(item_id=item_id, path=self.nodes[item_id].path))

    async def retract(self, item_id: str) -> None:
        self._take((await self._write.retract(self.id, item_id)).events)

    async def do_something(self, random: Random) -> None:
        """Makes a random change."""
        text = f"text {self.version}"
        unretracted = [node.id for node in self.nodes.values() if node.retracted_version is None]
        match random.choice(("append", "append", "revise", "revise", "move", "retract")) if unretracted else "append":
            case "revise":
                await self.revise(random.choice(unretracted), text)
            case "move":
                await self.move(random.choice(unretracted))
            case "retract" if len(unretracted) > 4:
                await self.retract(random.choice(unretracted))
            case _:
                await self.append(*[text] * random.randint(1, 3))

    def head(self, version: int) -> str | None:
        return next((item_id for since, item_id in reversed(self.last_items) if since <= version), None)

    def last_on(self, branch: int, version: int) -> str:
        on_branch = [node for node in self.nodes.values() if node.branch == branch and node.version <= version]
        return max(on_branch, key=lambda node: node.depth).id

    def path_to(self, item_id: str | None, version: int) -> list[str]:
        """The items of the path to this item, without items retracted at this version."""
        path: list[str] = []
        while item_id is not None:
            node = self.nodes[item_id]
            path = [item_id, *path] if node.exists(version) else path
            item_id = node.parent
        return path

    def siblings(self, item_id: str, version: int) -> dict[str, int] | None:
        of_parent = [
            node.id
            for node in self.nodes.values()
            if node.parent == self.nodes[item_id].parent and node.exists(version)
        ]
        if len(of_parent) < 2:
            return None
        of_parent.sort(key=lambda sibling: self.nodes[sibling].version)
        return {"index": of_parent.index(item_id), "count": len(of_parent)}

    def tree(self, version: int) -> list[dict[str, Any]]:
        """The nodes as the API lists them. Retracted nodes are marked."""
        nodes = sorted(self.nodes.values(), key=lambda node: (node.depth, node.branch))
        return [
            {
                "id": node.id,
                "parent": node.parent,
                "branch": node.branch,
                "depth": node.depth,
                **({} if node.exists(version) else {"retracted": True}),
            }
            for node in nodes
            if node.version <= version
        ]

    def _leaf_before(self, node: Node) -> Leaf:
        if node.parent is None:
            return Leaf(None, 0, (PathBranch(0, 0, 0),))
        parent = self.nodes[node.parent]
        return Leaf(parent.id, parent.depth, parent.path)

    async def _execute(self, command: AppendItems | ReviseItem | MoveHead) -> list[str]:
        return self._take((await self._write.execute(self.id, command)).events)

    def _take(self, events: tuple[Event, ...]) -> list[str]:
        appended: list[str] = []
        for event in events:
            self.version += 1
            match event:
                case ItemAppended():
                    before = self._path_before(event)
                    path = (*before, PathBranch(event.branch, event.depth, self.version))
                    node = Node(event.item_id, event.parent_id, event.branch, event.depth, self.version, path)
                    self.nodes[event.item_id] = node
                    if event.branch != self.version:  # a HeadMoved follows an item that opens a branch
                        self.last_items.append((self.version, event.item_id))
                    appended.append(event.item_id)
                case HeadMoved():
                    self.last_items.append((self.version, event.item_id))
                case ItemRetracted():
                    self.nodes[event.item_id].retracted_version = self.version
        return appended

    def _path_before(self, event: ItemAppended) -> tuple[PathBranch, ...]:
        """The path's branches before the item's branch."""
        if event.branch == self.version:
            return event.leaves
        if event.parent_id is None or self.nodes[event.parent_id].branch != event.branch:
            return ()
        return self.nodes[event.parent_id].path[:-1]
