"""Random forks of forks, compared with a model of items and their parents.

The lists, trees and contexts of all conversations must agree with the model, and so must lists at earlier versions.

    scripts/test tests/queries/test_fork_properties.py -m endless                             200 histories
    HISTORIES=20 HISTORY_SEED=7 scripts/test tests/queries/test_fork_properties.py -m endless  twenty, from seed 7 on
"""

import os
import random
from itertools import pairwise
from typing import Any

import httpx
import pytest
from msgspec import Struct, field

from tests.commands.api_client import message
from tests.queries.test_forks import Store, store

__all__ = ["store"]

SEED = int(os.environ.get("HISTORY_SEED", "1"))
MANY = int(os.environ.get("HISTORIES", "200"))
ATTEMPTS = 10


class Item(Struct, eq=False):
    id: str
    parent: "Item | None"
    conversation: "Conversation"

    @property
    def path(self) -> list["Item"]:
        return [*(self.parent.path if self.parent else ()), self]


class State(Struct, frozen=True):
    head: Item | None
    pins: tuple[Item, ...]


class Conversation(Struct, eq=False):
    """A conversation of the model.

    `base`: the last inherited item. `forked_at`: the version of `origin`.
    `retractions`: for each item, the versions at which the item was retracted and restored in turn.
    """

    id: str
    origin: "Conversation | None" = None
    forked_at: int = 0
    base: Item | None = None
    head: Item | None = None
    pins: list[Item] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    retractions: dict[str, list[int]] = field(default_factory=dict)
    deleted: bool = False
    states: dict[int, State] = field(default_factory=dict)

    @property
    def all_items(self) -> list[Item]:
        return [*(self.base.path if self.base else ()), *self.items]

    @property
    def version(self) -> int:
        return max(self.states)

    @property
    def family(self) -> list["Conversation"]:
        """This conversation, its origin, the origin of the origin, and so on."""
        return [self, *(self.origin.family if self.origin else ())]

    def retractions_of(self, item: Item) -> list[int]:
        return self.retractions.get(item.id, [])

    def has_retracted(self, item: Item, version: int | None = None) -> bool:
        """Whether the item is retracted here at this version. None: now."""
        return len([at for at in self.retractions_of(item) if version is None or at <= version]) % 2 == 1

    def siblings(self, item_id: str) -> list[str]:
        """The shown items with the same parent, in the order of their addition."""
        [parent] = [item.parent for item in self.all_items if item.id == item_id]
        return [item.id for item in self.all_items if item.parent is parent and self.shows(item)]

    def shows(self, item: Item) -> bool:
        return not item.conversation.deleted and not any(each.has_retracted(item) for each in self.family)

    def showed(self, item: Item, version: int) -> bool:
        """Whether the list at this version has the item. A fork lacks items that an origin retracted before the fork was made."""
        if item.conversation.deleted or self.has_retracted(item, version):
            return False
        return not any(
            origin.has_retracted(item) and origin.retractions_of(item)[-1] <= fork.forked_at
            for fork, origin in pairwise(self.family)
        )


class History:
    """Sends random requests to the store, and makes the same changes to the model."""

    def __init__(self, seed: int, store: Store) -> None:
        self.chance = random.Random(seed)
        self.store = store
        self.conversations: list[Conversation] = []

    async def run(self, steps: int) -> None:
        actions = (
            *[self._append] * 4,
            *[self._fork] * 5,
            *[self._retract] * 4,
            *[self._restore] * 3,
            *[self._pin] * 2,
            *[self._revise] * 2,
            *[self._move] * 2,
            self._delete,
        )
        for action in self.chance.choices(actions, k=steps):
            existing = [one for one in self.conversations if not one.deleted]
            if not existing:
                await self._start()
            else:
                await action(self.chance.choice(existing))

    async def check(self) -> None:
        await self.store.world.catch_up()
        for conversation in self.conversations:
            if conversation.deleted:
                assert (await self._get(conversation, "items")).status_code == 404
            else:
                await self._check(conversation)

    async def _check(self, conversation: Conversation) -> None:
        active_path = conversation.head.path if conversation.head else []
        shown = [item.id for item in active_path if conversation.shows(item)]
        items = await self._items(conversation, order="asc")
        assert [item["id"] for item in items] == shown
        for entry in items:
            siblings = conversation.siblings(entry["id"])
            expected = {"index": siblings.index(entry["id"]), "count": len(siblings)} if len(siblings) > 1 else None
            assert entry.get("siblings") == expected
        assert await self._listed(conversation, order="desc") == shown[::-1]
        context = (await self._get(conversation, "context?model=m")).json()
        assert [sent["id"] for sent in context["items"]] == shown
        pins = {item.id for item in conversation.pins}
        assert {sent["id"] for sent in context["items"] if sent["pinned"]} == pins & {*shown}
        nodes = (await self._get(conversation, "tree?limit=200")).json()["data"]
        unretracted = [item.id for item in conversation.all_items if conversation.shows(item)]
        assert sorted(node["id"] for node in nodes if "retracted" not in node) == sorted(unretracted)
        assert {node["id"] for node in nodes} <= {item.id for item in conversation.all_items}
        if active_path:
            item = self.chance.choice(conversation.all_items)
            path = [each.id for each in item.path if conversation.shows(each)]
            if not item.conversation.deleted:
                assert await self._listed(conversation, order="asc", leaf=item.id) == path
            answer = await self._get(conversation, f"items/{item.id}")
            assert answer.status_code == (200 if conversation.shows(item) else 404)
        version = self.chance.choice([*conversation.states])
        head = conversation.states[version].head
        active_path = [item for item in head.path if conversation.showed(item, version)] if head else []
        assert await self._listed(conversation, order="asc", as_of=version) == [item.id for item in active_path]

    async def _listed(self, conversation: Conversation, **query: Any) -> list[str]:
        return [item["id"] for item in await self._items(conversation, **query)]

    async def _items(self, conversation: Conversation, **query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        limit = self.chance.choice((2, 5, 100))
        while True:
            cursor = {"after": items[-1]["id"]} if items else {}
            page = (await self._get(conversation, "items", limit=limit, **query, **cursor)).json()
            items += page["data"]
            if not page["has_more"]:
                return items

    async def _get(self, conversation: Conversation, path: str, **query: Any) -> httpx.Response:
        """Repeats the read if the views are late, as on a busy machine."""
        for _ in range(ATTEMPTS):
            answer = await self.store.queries.get(f"/v1/conversations/{conversation.id}/{path}", params=query or None)
            if answer.status_code != 503:
                break
        return answer

    async def _start(self) -> None:
        answer = await self.store.post("", {})
        conversation = Conversation(answer.json()["id"])
        self.conversations.append(conversation)
        self._note(conversation, answer)
        await self._append(conversation)

    async def _append(self, conversation: Conversation) -> None:
        texts = ["x"] * self.chance.randint(1, 4)
        answer = await self.store.post(f"/{conversation.id}/items", {"items": [message(text) for text in texts]})
        assert answer.status_code == 200, answer.text
        for item in answer.json()["data"]:
            self._add(conversation, item["id"], conversation.head)
        self._note(conversation, answer)

    def _add(self, conversation: Conversation, item_id: str, parent: Item | None) -> None:
        """The item becomes the head."""
        conversation.head = Item(item_id, parent, conversation)
        conversation.items.append(conversation.head)

    async def _revise(self, conversation: Conversation) -> None:
        if (item := self._any(conversation)) is None:
            return
        answer = await self.store.post(f"/{conversation.id}/items/{item.id}", {"item": message("revised")})
        assert answer.status_code == (200 if conversation.shows(item) else 404), answer.text
        if answer.status_code == 200:
            self._add(conversation, answer.json()["id"], item.parent)
            self._note(conversation, answer)

    async def _move(self, conversation: Conversation) -> None:
        if (item := self._any(conversation)) is None:
            return
        answer = await self.store.post(f"/{conversation.id}/head", {"item": item.id})
        assert answer.status_code == (200 if conversation.shows(item) else 404), answer.text
        if answer.status_code == 200:
            conversation.head = item
            self._note(conversation, answer)

    async def _fork(self, conversation: Conversation) -> None:
        version = self.chance.choice([*conversation.states])
        kind = self.chance.choice(("now", "item", "version", "after"))
        item = self._any(conversation)
        body: dict[str, Any] = {}
        state = conversation.states[conversation.version]
        forked_at, expected = conversation.version, 200
        if kind == "version":
            body, state, forked_at = {"version": version}, conversation.states[version], version
        elif item is not None and kind in ("item", "after"):
            body = {"item": item.id, "include_after": kind == "after"}
            on_path = conversation.head is not None and item in conversation.head.path
            expected = 404 if not conversation.shows(item) else 200 if kind == "item" or on_path else 400
            if kind == "item":
                state = State(item, state.pins)
        answer = await self.store.post(f"/{conversation.id}/fork", body)
        assert answer.status_code == expected, answer.text
        if expected != 200:
            return
        forked = answer.json()
        head = state.head.id if state.head else None
        assert (forked["forked_from"]["conversation"], forked["forked_from"]["item"]) == (conversation.id, head)
        active_path = state.head.path if state.head else []
        pins = [pin for pin in state.pins if pin in active_path]
        fork = Conversation(forked["id"], conversation, forked_at, state.head, state.head, pins)
        self.conversations.append(fork)
        self._note(fork, answer)

    async def _retract(self, conversation: Conversation) -> None:
        if (item := self._any(conversation)) is None:
            return
        path = f"/v1/conversations/{conversation.id}/items/{item.id}"
        answer = await self.store.commands.delete(path)
        assert answer.status_code == (200 if conversation.shows(item) else 404), answer.text
        if answer.status_code == 200:
            if item in conversation.pins:
                conversation.pins.remove(item)
            self._note(conversation, answer, item)

    async def _restore(self, conversation: Conversation) -> None:
        retracted = [item for item in conversation.all_items if conversation.has_retracted(item)]
        if not retracted:
            return
        item = self.chance.choice(retracted)
        answer = await self.store.post(f"/{conversation.id}/items/{item.id}/restore")
        elsewhere = any(each.has_retracted(item) for each in conversation.family[1:])
        expected = 404 if elsewhere or item.conversation.deleted else 200
        assert answer.status_code == expected, answer.text
        if expected == 200:
            self._note(conversation, answer, item)

    async def _pin(self, conversation: Conversation) -> None:
        if (item := self._any(conversation)) is None or not conversation.shows(item):
            return
        is_pinned = item in conversation.pins
        answer = await self.store.post(f"/{conversation.id}/items/{item.id}/{'unpin' if is_pinned else 'pin'}")
        assert answer.status_code == 200, answer.text
        conversation.pins = [pin for pin in conversation.pins if pin is not item] + ([] if is_pinned else [item])
        self._note(conversation, answer)

    async def _delete(self, conversation: Conversation) -> None:
        if len(self.conversations) > 3:
            answer = await self.store.commands.delete(f"/v1/conversations/{conversation.id}")
            assert answer.status_code == 200, answer.text
            conversation.deleted = True

    def _any(self, conversation: Conversation) -> Item | None:
        items = conversation.all_items
        return self.chance.choice(items) if items else None

    def _note(self, conversation: Conversation, answer: httpx.Response, changed: Item | None = None) -> None:
        """`changed`: the item that was retracted or restored."""
        version = int(answer.headers["etag"].strip('"'))
        if changed is not None:
            conversation.retractions.setdefault(changed.id, []).append(version)
        conversation.states[version] = State(conversation.head, tuple(conversation.pins))


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(SEED, SEED + MANY), marks=pytest.mark.endless)])
async def test_lists_trees_and_contexts_of_random_forks_agree_with_the_model(store: Store, seeds: range) -> None:
    for seed in seeds:
        history = History(seed, store)
        try:
            for _ in range(2):
                await history.run(20)
                await history.check()
        except BaseException as error:
            error.add_note(f"Seed {seed}")
            raise
