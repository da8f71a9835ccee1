"""POST …/fork: what a fork begins with, and what a client can do in a fork with the inherited items."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from msgspec import Struct

from infrastructure.settings import Settings
from tests.commands.api_client import error_of, message, open_api
from tests.projections.world import World
from tests.queries.conftest import open_api as open_query_api


class Store(Struct, frozen=True):
    """Both APIs. `get` first lets the views catch up."""

    commands: httpx.AsyncClient
    queries: httpx.AsyncClient
    world: World

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.commands.post(f"/v1/conversations{path}", json=body, headers=names)

    async def create(self, *texts: str, **fields: Any) -> tuple[str, list[str]]:
        """Returns the conversation's id and the ids of its messages."""
        answer = await self.post("", fields)
        assert answer.status_code == 200, answer.text
        conversation_id = answer.json()["id"]
        return conversation_id, await self.append(conversation_id, *texts)

    async def append(self, conversation_id: str, *texts: str) -> list[str]:
        answer = await self.post(f"/{conversation_id}/items", {"items": [message(text) for text in texts]})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["data"]]

    async def fork(self, conversation_id: str, **body: Any) -> str:
        answer = await self.post(f"/{conversation_id}/fork", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def get(self, path: str) -> httpx.Response:
        await self.world.catch_up()
        return await self.queries.get(f"/v1/conversations/{path}".removesuffix("/"))

    async def texts(self, conversation_id: str) -> list[str]:
        """The texts, oldest first. They must be the same in the list, in the tree and in the context."""
        answer = await self.get(f"{conversation_id}/context?model=m")
        assert answer.status_code == 200, answer.text
        listed = await self.get(f"{conversation_id}/items?order=asc")
        assert listed.status_code == 200, listed.text
        tree = await self.get(f"{conversation_id}/tree")
        assert tree.status_code == 200, tree.text
        texts = [item["content"][0]["text"] for item in listed.json()["data"]]
        assert [node["preview"] for node in tree.json()["data"] if "retracted" not in node] == texts
        assert [sent["item"]["content"][0]["text"] for sent in answer.json()["items"]] == texts
        return texts

    async def retract(self, conversation_id: str, item_id: str) -> int:
        return (await self.commands.delete(f"/v1/conversations/{conversation_id}/items/{item_id}")).status_code


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    world = World(settings)
    await world.pool.open()
    async with open_api(settings) as commands, open_query_api(settings) as queries:
        yield Store(commands, queries, world)
    await world.close()


async def test_a_fork_begins_with_the_items_up_to_the_named_one(store: Store) -> None:
    origin, ids = await store.create("one", "two", "three", title="Oslo", instructions="Be brief.", metadata={"a": "b"})
    answer = await store.post(f"/{origin}/fork", {"item": ids[1], "metadata": {"c": "d"}})
    fork = answer.json()
    assert (answer.status_code, fork["title"], fork["instructions"]) == (200, "Oslo", "Be brief.")
    assert (fork["metadata"], fork["version"], answer.headers["etag"]) == ({"c": "d"}, 1, '"1"')
    assert fork["forked_from"] == {"conversation": origin, "item": ids[1], "version": 4}
    assert (await store.get(fork["id"])).json().items() >= fork.items()
    assert [one["id"] for one in (await store.get("")).json()["data"]] == [fork["id"], origin]
    assert await store.texts(fork["id"]) == ["one", "two"]
    await store.append(fork["id"], "other")
    assert await store.texts(fork["id"]) == ["one", "two", "other"]
    assert await store.texts(origin) == ["one", "two", "three"]

    assert await store.texts(await store.fork(origin)) == ["one", "two", "three"]
    assert await store.texts(await store.fork(origin, version=2)) == ["one"]
    assert await store.texts(await store.fork(origin, item=ids[0], include_after=True)) == ["one", "two", "three"]
    assert await store.texts(await store.fork(origin, version=3, include_after=True)) == ["one", "two", "three"]
    grandchild = await store.fork(fork["id"], item=ids[0])
    await store.append(grandchild, "again")
    assert await store.texts(grandchild) == ["one", "again"]
    named = (await store.post(f"/{origin}/fork", {"title": None})).json()
    assert (named["title"], named["forked_from"]["item"]) == (None, ids[2])
    empty, _ = await store.create(title="Empty")
    assert (await store.post(f"/{empty}/fork")).json()["forked_from"] == {
        "conversation": empty,
        "item": None,
        "version": 1,
    }
    child = await store.fork(origin, version=1)
    assert await store.texts(child) == []
    await store.append(child, "first")
    assert await store.texts(child) == ["first"]


async def test_a_fork_at_an_unknown_item_or_version_is_refused(store: Store) -> None:
    origin, ids = await store.create("one", "two")
    other, [foreign] = await store.create("elsewhere")
    await store.retract(origin, ids[1])
    refused: dict[tuple[int, str, str | None], list[dict[str, Any]]] = {
        (400, "invalid_value", "version"): [{"version": 5}, {"version": 0}, {"version": 2**70}],
        (400, "mutually_exclusive_parameters", "version"): [{"item": ids[0], "version": 2}],
        (404, "not_found", None): [{"item": foreign}, {"item": ids[1]}, {"item": other.replace("conv", "msg")}],
        (400, "invalid_id", "item"): [{"item": "x"}, {"item": ""}],
        (400, "invalid_value", "item"): [{"item": "msg_\0"}],
        (400, "invalid_value", "include_after"): [{"include_after": "yes"}],
        (400, "unknown_parameter", "items"): [{"items": []}],
    }
    for expected, bodies in refused.items():
        for body in bodies:
            answer = await store.post(f"/{origin}/fork", body)
            assert error_of(answer) == expected, (body, answer.text)
    gone, _ = await store.create("gone")
    await store.commands.delete(f"/v1/conversations/{gone}")
    assert error_of(await store.post(f"/{gone}/fork"))[0] == 404
    assert len((await store.get("")).json()["data"]) == 2


async def test_a_fork_is_made_once_for_an_idempotency_key(store: Store) -> None:
    origin, _ = await store.create("one")
    assert (await store.post(f"/{origin}/fork", {}, If_Match='"1"')).status_code == 412
    first = await store.post(f"/{origin}/fork", {}, If_Match='"2"', Idempotency_Key="k")
    assert first.status_code == 200
    await store.append(origin, "two")
    repeated = await store.post(f"/{origin}/fork", {}, If_Match='"2"', Idempotency_Key="k")
    assert (repeated.json(), repeated.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (await store.post(f"/{origin}/fork", {"version": 1}, Idempotency_Key="k")).status_code == 422
    await store.post(f"/{origin}/end")
    assert await store.texts(await store.fork(origin)) == ["one", "two"]
    await store.commands.delete(f"/v1/conversations/{origin}")
    repeated = await store.post(f"/{origin}/fork", {}, If_Match='"2"', Idempotency_Key="k")
    assert repeated.json()["id"] == first.json()["id"]


async def test_a_fork_lists_its_inherited_items_before_its_own(store: Store) -> None:
    origin, ids = await store.create("0", "1", "2", "3")
    fork = await store.fork(origin, item=ids[2])
    ids = [*ids[:3], *await store.append(fork, "4", "5")]
    grandchild = await store.fork(fork, item=ids[3])
    ids = [*ids[:4], *await store.append(grandchild, "6", "7")]
    path = f"{grandchild}/items"
    await store.world.catch_up()
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        for limit in (1, 2, 5, 6):
            assert await listed(store, path, order=order, limit=limit) == expected
        before = (await store.get(f"{path}?limit=3&order={order}&before={expected[4]}")).json()
        assert ([item["id"] for item in before["data"]], before["has_more"]) == (expected[1:4], True)
    assert await listed(store, path, order="asc", branch=0) == ids
    for depth, item_id in enumerate(ids, 1):
        assert await listed(store, path, order="asc", leaf=item_id, limit=2) == ids[:depth]
    nodes: list[dict[str, Any]] = []
    while True:
        after = f"&after={nodes[-1]['id']}" if nodes else ""
        tree = (await store.get(f"{grandchild}/tree?limit=2{after}")).json()
        nodes += tree["data"]
        assert tree["active_leaf"] == ids[-1]
        if not tree["has_more"]:
            break
    expected_nodes = [(item_id, parent, 0, depth) for depth, (parent, item_id) in enumerate(pairwise([None, *ids]), 1)]
    assert [(node["id"], node["parent"], node["branch"], node["depth"]) for node in nodes] == expected_nodes

    shown = await store.get(f"{grandchild}/items/{ids[0]}")
    assert (shown.status_code, shown.json()["id"], "no-store" in shown.headers["cache-control"]) == (200, ids[0], True)
    for page in ("items", "tree"):
        answer = await store.get(f"{grandchild}/{page}")
        tag = {"If-None-Match": answer.headers["etag"]}
        assert "no-store" in answer.headers["cache-control"]
        assert (await store.queries.get(f"/v1/conversations/{grandchild}/{page}", headers=tag)).status_code == 200
    for elsewhere in (origin, fork):
        assert (await store.get(f"{elsewhere}/items/{ids[5]}")).status_code == 404
        for cursor in (f"items?after={ids[5]}", f"tree?after={ids[5]}"):
            assert error_of(await store.get(f"{elsewhere}/{cursor}")) == (400, "invalid_cursor", "after")
        assert error_of(await store.get(f"{elsewhere}/items?leaf={ids[5]}")) == (404, "item_not_found", "leaf")


async def test_a_read_waits_for_the_views_of_every_conversation_on_its_path(
    store: Store,
) -> None:
    async def path_to_two() -> list[str]:
        """The views catch up while the path is read."""
        url = f"/v1/conversations/{fork}/items?order=asc&leaf={two}"
        answer, _ = await asyncio.gather(store.queries.get(url), store.world.catch_up())
        assert answer.status_code == 200, answer.text
        return [item["content"][0]["text"] for item in answer.json()["data"]]

    origin, [one] = await store.create("one")
    await store.world.catch_up()
    middle = await store.fork(origin)
    [two] = await store.append(middle, "two")
    fork = await store.fork(middle)
    assert await path_to_two() == ["one", "two"]
    assert await store.retract(origin, one) == 200
    assert await path_to_two() == ["two"]
    assert (await store.post(f"/{origin}/items/{one}/restore")).status_code == 200
    assert await path_to_two() == ["one", "two"]
    assert (await store.commands.delete(f"/v1/conversations/{origin}")).status_code == 200
    assert await path_to_two() == ["two"]


async def test_a_revision_of_an_inherited_item_is_only_in_the_fork(store: Store) -> None:
    origin, ids = await store.create("one", "two")
    fork = await store.fork(origin)
    ids += await store.append(fork, "three", "four")  # the same versions as "one" and "two"
    grandchild = await store.fork(fork)
    answer = await store.post(f"/{grandchild}/items/{ids[0]}", {"item": message("first")})
    assert answer.status_code == 200, answer.text
    [revised] = (await store.get(f"{grandchild}/items")).json()["data"]
    assert (revised["id"], revised["siblings"]) == (answer.json()["id"], {"index": 1, "count": 2})
    await store.post(f"/{origin}/items/{ids[1]}", {"item": message("second")})
    items = (await store.get(f"{grandchild}/items?order=asc&branch=0")).json()["data"]
    assert [(item["id"], item.get("siblings")) for item in items] == [
        (ids[0], {"index": 0, "count": 2}),
        *((item_id, None) for item_id in ids[1:]),
    ]
    assert (await store.get(f"{grandchild}/items/{ids[0]}")).json()["siblings"] == {"index": 0, "count": 2}
    assert "siblings" not in (await store.get(f"{fork}/items/{ids[0]}")).json()
    assert await store.retract(origin, ids[0]) == 200
    assert "siblings" not in (await store.get(f"{grandchild}/items")).json()["data"][0]


async def listed(store: Store, path: str, **query: Any) -> list[str]:
    ids: list[str] = []
    while True:
        cursor = {"after": ids[-1]} if ids else {}
        page = (await store.queries.get(f"/v1/conversations/{path}", params={**query, **cursor})).json()
        ids += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return ids


async def test_a_fork_does_not_inherit_a_pin_that_a_deletion_took(store: Store) -> None:
    origin, ids = await store.create("one", "two")
    assert (await store.post(f"/{origin}/items/{ids[0]}/pin")).status_code == 200
    assert await store.retract(origin, ids[0]) == 200
    fork = await store.fork(origin)
    at_pin = await store.fork(origin, version=4)
    assert (await store.post(f"/{fork}/items/{ids[1]}/pin")).status_code == 200
    assert await store.retract(fork, ids[1]) == 200
    grandchild = await store.fork(fork)
    assert (await store.post(f"/{origin}/items/{ids[0]}/restore")).status_code == 200
    assert (await store.post(f"/{fork}/items/{ids[1]}/restore")).status_code == 200
    for conversation, expected in (
        (origin, [False, False]),
        (fork, [False, False]),
        (grandchild, [False, False]),
        (at_pin, [True, False]),
    ):
        shown = (await store.get(f"{conversation}/context?model=m")).json()["items"]
        assert [item["pinned"] for item in shown] == expected


async def test_inherited_items_can_be_pinned_and_retracted_in_a_fork(store: Store) -> None:
    origin, ids = await store.create("one", "two", "three")
    fork = await store.fork(origin)
    grandchild = await store.fork(fork)
    assert (await store.post(f"/{fork}/items/{ids[0]}/pin")).status_code == 200
    pinned = (await store.get(f"{fork}/context?model=m")).json()["items"]
    assert [item["pinned"] for item in pinned] == [True, False, False]
    assert await store.retract(fork, ids[1]) == 200
    assert await store.retract(fork, ids[1]) == 404
    for reader, expected in (
        (origin, ["one", "two", "three"]),
        (fork, ["one", "three"]),
        (grandchild, ["one", "three"]),
    ):
        assert await store.texts(reader) == expected
        status = 200 if "two" in expected else 404
        assert (await store.get(f"{reader}/items/{ids[1]}")).status_code == status
        assert (await store.post(f"/{reader}/fork", {"item": ids[1]})).status_code == status
    assert await store.texts(await store.fork(fork)) == ["one", "three"]
    for version, expected in ((2, ["one", "two", "three"]), (3, ["one", "three"])):
        past = (await store.get(f"{fork}/items?as_of={version}&order=asc")).json()["data"]
        assert [item["content"][0]["text"] for item in past] == expected
        nodes = (await store.get(f"{fork}/tree?as_of={version}")).json()["data"]
        assert [node["preview"] for node in nodes if "retracted" not in node] == expected
    assert (await store.get(f"{fork}")).json()["version"] == 3
    assert await store.retract(fork, ids[0]) == 200
    assert (await store.post(f"/{fork}/items/{ids[0]}/restore")).status_code == 200
    assert await store.texts(fork) == ["one", "three"]
    assert await store.retract(origin, ids[0]) == 200
    assert await store.retract(fork, ids[0]) == 404
    assert await store.texts(fork) == await store.texts(grandchild) == ["three"]
    assert (await store.post(f"/{grandchild}/items/{ids[0]}/pin")).status_code == 404
    await store.append(grandchild, "own")
    await store.commands.delete(f"/v1/conversations/{origin}")
    assert await store.texts(grandchild) == ["own"]
    assert await store.texts(fork) == []
