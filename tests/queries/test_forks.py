"""Forks that clients make with POST …/fork: what they begin with, and what they may do with what they inherit."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec import Struct

from infrastructure.settings import Settings
from tests.commands.api_client import error_of, message, open_api
from tests.projections.world import World
from tests.queries.conftest import open_api as open_query_api


class Store(Struct, frozen=True):
    """Both APIs, and a projector that runs when a test reads."""

    commands: httpx.AsyncClient
    queries: httpx.AsyncClient
    world: World

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.commands.post(f"/v1/conversations{path}", json=body, headers=names)

    async def create(self, *texts: str, **fields: Any) -> tuple[str, list[str]]:
        """A conversation with these messages. Returns its id and theirs."""
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
        """The texts of the items that a model would be sent, oldest first."""
        answer = await self.get(f"{conversation_id}/context?model=m")
        assert answer.status_code == 200, answer.text
        return [sent["item"]["content"][0]["text"] for sent in answer.json()["items"]]

    async def retract(self, conversation_id: str, item_id: str) -> int:
        return (await self.commands.delete(f"/v1/conversations/{conversation_id}/items/{item_id}")).status_code


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    world = World(settings)
    await world.pool.open()
    async with open_api(settings) as commands, open_query_api(settings) as queries:
        yield Store(commands, queries, world)
    await world.close()


async def test_a_fork_begins_with_the_items_up_to_the_place_and_says_where_it_comes_from(store: Store) -> None:
    origin, ids = await store.create("one", "two", "three", title="Oslo", instructions="Be brief.", metadata={"a": "b"})
    answer = await store.post(f"/{origin}/fork", {"item": ids[1], "metadata": {"c": "d"}})
    fork = answer.json()
    assert (answer.status_code, fork["title"], fork["instructions"]) == (200, "Oslo", "Be brief.")
    assert (fork["metadata"], fork["version"], answer.headers["etag"]) == ({"c": "d"}, 1, '"1"')
    assert fork["forked_from"] == {"conversation": origin, "item": ids[1], "version": 4}
    assert (await store.get(fork["id"])).json() == fork
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


async def test_a_fork_of_what_is_not_there_is_refused_and_nothing_is_made(store: Store) -> None:
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


async def test_a_fork_is_made_once_for_a_key_and_only_of_the_version_that_if_match_names(store: Store) -> None:
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


async def test_a_fork_pins_and_retracts_what_it_inherits_for_itself_alone(store: Store) -> None:
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
        assert error_of(await store.post(f"/{reader}/fork", {"item": ids[1]}))[0] == 404 if status == 404 else True
    assert await store.texts(await store.fork(fork)) == ["one", "three"]
    assert (await store.get(f"{fork}")).json()["version"] == 3
    # What the origin retracts is gone from the forks too.
    assert await store.retract(origin, ids[0]) == 200
    assert await store.texts(fork) == await store.texts(grandchild) == ["three"]
    assert (await store.post(f"/{grandchild}/items/{ids[0]}/pin")).status_code == 404
    await store.append(grandchild, "own")
    await store.commands.delete(f"/v1/conversations/{origin}")
    assert await store.texts(grandchild) == ["own"]
    assert await store.texts(fork) == []
