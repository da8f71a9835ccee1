"""Lists of items along any path of a conversation, siblings, and the tree of all items."""

from random import Random
from typing import Any

import httpx
import pytest

from infrastructure.ids import mint
from tests.queries.branched_conversation import BranchedConversation
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer


async def get(api: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(path, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def listed(api: httpx.AsyncClient, conversation: BranchedConversation, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await get(api, f"/v1/conversations/{conversation.id}/items", **query, **cursor)
        items += page["data"]
        if not page["has_more"]:
            return items
        cursor = {"after": page["last_id"]}


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


@pytest.fixture
async def conversation(write: Writer) -> BranchedConversation:
    return BranchedConversation(write, await write.start())


@pytest.mark.parametrize("seed", range(2))
async def test_paths_siblings_and_the_tree_are_as_the_events_say(
    api: httpx.AsyncClient, conversation: BranchedConversation, live: ManualProjector, seed: int
) -> None:
    random = Random(seed)
    for _ in range(30):
        await conversation.do_something(random)
    newest = conversation.version
    for version in [newest, *random.sample(range(2, newest), 4)]:
        as_of = {} if version == newest else {"as_of": version}
        limit = random.choice((2, 3, 20))
        path = conversation.path_to(conversation.head(version), version)
        found = await listed(api, conversation, limit=limit, order="asc", **as_of)
        assert ids(found) == path
        assert [item.get("siblings") for item in found] == [conversation.siblings(item, version) for item in path]
        assert ids(await listed(api, conversation, limit=limit, **as_of)) == path[::-1]
        leaf = random.choice([node.id for node in conversation.nodes.values() if node.version <= version])
        found = await listed(api, conversation, limit=limit, leaf=leaf, order="asc", **as_of)
        assert ids(found) == conversation.path_to(leaf, version)
        branch = conversation.nodes[leaf].branch
        found = await listed(api, conversation, limit=limit, branch=branch, **as_of)
        assert ids(found) == conversation.path_to(conversation.last_on(branch, version), version)[::-1]
        assert await tree_of(api, conversation, limit, **as_of) == conversation.tree(version)
    one = random.choice([node for node in conversation.nodes.values() if node.exists(newest)])
    item = await get(api, f"/v1/conversations/{conversation.id}/items/{one.id}")
    assert item.get("siblings") == conversation.siblings(one.id, newest)


async def tree_of(
    api: httpx.AsyncClient, conversation: BranchedConversation, limit: int, **query: Any
) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = await get(api, f"/v1/conversations/{conversation.id}/tree", limit=limit, **query, **after)
        assert page["active_leaf"] == conversation.head(query.get("as_of", conversation.version))
        nodes += [
            {name: node[name] for name in ("id", "parent", "branch", "depth", "retracted") if name in node}
            for node in page["data"]
        ]
        if not page["has_more"]:
            return nodes
        after = {"after": page["data"][-1]["id"]}


async def test_many_siblings_are_counted_without_reading_their_documents(
    api: httpx.AsyncClient, conversation: BranchedConversation, live: ManualProjector
) -> None:
    *_, revised = await conversation.append("a", "b", "c")
    for number in range(30):
        newest = await conversation.revise(revised, f"version {number}")
    path = f"/v1/conversations/{conversation.id}/items"
    await get(api, path)
    await live.views.command("profile", 2)

    page = await get(api, path)

    await live.views.command("profile", 0)
    reads = await live.views["system.profile"].find({"command.aggregate": "items"}).to_list()
    await live.views["system.profile"].drop()
    assert page["data"][0]["id"] == newest
    assert page["data"][0]["siblings"] == {"index": 30, "count": 31}
    assert sum(read["docsExamined"] for read in reads) < 15  # the page, and a view's position for each read


async def test_a_cursor_follows_the_new_path_after_the_head_moved(
    api: httpx.AsyncClient, conversation: BranchedConversation, live: ManualProjector
) -> None:
    a, b, c, d = await conversation.append("a", "b", "c", "d")
    revised = await conversation.revise(b, "B")
    [e, f] = await conversation.append("e", "f")
    path = f"/v1/conversations/{conversation.id}/items"

    assert ids((await get(api, path, order="asc", after=c))["data"]) == [revised, e, f]
    assert ids((await get(api, path, before=d))["data"]) == [f, e, revised]
    assert ids((await get(api, path, after=c))["data"]) == [revised, a]
    assert ids((await get(api, path, leaf=d, order="asc", after=e))["data"]) == [b, c, d]
    assert ids((await get(api, path, leaf=f, order="asc", after=e))["data"]) == [f]


async def test_a_tree_node_has_a_preview_of_its_item(
    api: httpx.AsyncClient, conversation: BranchedConversation, live: ManualProjector
) -> None:
    a, b = await conversation.append("  a long\n\nquestion " + "x" * 100, "b")
    await conversation.retract(b)
    revised = await conversation.revise(a, "shorter")
    path = f"/v1/conversations/{conversation.id}/tree"

    answer = await api.get(path)
    body = answer.json()
    created = [node.pop("created_at") for node in body["data"]]

    assert all(isinstance(seconds, int) for seconds in created)
    node = {"object": "tree.node", "role": "user", "type": "message", "feedback": {"positive": 0, "negative": 0}}
    assert body == {
        "object": "list",
        "data": [
            {**node, "id": a, "parent": None, "branch": 0, "depth": 1, "preview": "a long question " + "x" * 64},
            {**node, "id": revised, "parent": None, "branch": 5, "depth": 1, "preview": "shorter"},
            {**node, "id": b, "parent": a, "branch": 0, "depth": 2, "retracted": True},
        ],
        "active_leaf": revised,
        "has_more": False,
    }
    assert (await api.get(path, headers={"if-none-match": answer.headers["etag"]})).status_code == 304
    assert [("preview" in n, "blanked" in n) for n in (await get(api, path, as_of=3))["data"]] == [(True, False)] * 2
    assert (await get(api, f"/v1/conversations/{conversation.id}/tree", as_of=1)) == {
        "object": "list",
        "data": [],
        "active_leaf": None,
        "has_more": False,
    }


async def test_unknown_paths_and_cursors_are_refused(
    api: httpx.AsyncClient, conversation: BranchedConversation, write: Writer, live: ManualProjector
) -> None:
    await conversation.append("a", "b")
    other = BranchedConversation(write, await write.start())
    [foreign] = await other.append("x")

    async def refused(path: str, **query: Any) -> tuple[int, str, str]:
        answer = await api.get(f"/v1/conversations/{conversation.id}/{path}", params=query)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    assert await refused("items", branch=2) == (404, "branch_not_found", "branch")
    assert await refused("items", branch=99) == (404, "branch_not_found", "branch")
    assert await refused("items", branch=-1) == (400, "invalid_value", "branch")
    assert await refused("items", branch=2**63) == (400, "invalid_value", "branch")
    assert await refused("items", branch="main") == (400, "invalid_value", "branch")
    for leaf in (foreign, mint("msg")):
        assert await refused("items", leaf=leaf) == (404, "item_not_found", "leaf")
    assert await refused("items", leaf="first") == (400, "invalid_id", "leaf")
    assert await refused("items", leaf=foreign, branch=0) == (400, "mutually_exclusive_parameters", "leaf")
    assert await refused("tree", after=foreign) == (400, "invalid_cursor", "after")
    assert await refused("tree", after="x") == (400, "invalid_id", "after")
    assert await refused("tree", limit=201) == (400, "invalid_value", "limit")
    assert await refused("tree", as_of=4) == (400, "invalid_value", "as_of")
    assert await refused("tree", order="asc") == (400, "unknown_parameter", "order")
