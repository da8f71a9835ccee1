"""Metadata keys that have a meaning for MongoDB or JavaScript are only data."""

from collections.abc import AsyncIterator, Iterator

import pytest

from infrastructure.settings import Settings
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import ScriptedProvider, scripted_provider

KEYS = [
    "$where",
    "$set",
    "$ref",
    "a.b",
    ".",
    "$",
    "_id",
    "__proto__",
    "constructor",
    "prototype",
    "[x]",
    "a=b&c",
    "%24",
    "k" * 64,
]
CODE = "function() { return true }"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[BothApis]:
    changed = {"openai_base_url": provider.url, "default_model": "scripted"}
    async with open_both_apis(settings.model_copy(update=changed)) as store:
        yield store


async def test_every_key_is_stored_and_shown_as_it_was_sent(store: BothApis) -> None:
    http = store.http
    other = (await http.post("/v1/conversations", json={"metadata": {"plain": "1"}})).json()["id"]
    ids: dict[str, list[str]] = {}
    for key in KEYS:
        metadata = {key: CODE}
        created = await http.post("/v1/conversations", json={"metadata": metadata})
        described = (await http.post("/v1/conversations", json={})).json()["id"]
        await http.post(f"/v1/conversations/{described}", json={"metadata": metadata})
        imported = await http.post("/v1/import", json={"metadata": metadata, "items": []})
        assert (created.json()["metadata"], imported.json()["conversations"]) == (metadata, 1)
        ids[key] = [described, created.json()["id"]]
    response = (await http.post("/v1/responses", json={"input": "hi", "metadata": dict.fromkeys(KEYS, CODE)})).json()
    await store.projector.catch_up()

    for key in KEYS:
        page = (await http.get("/v1/conversations", params={f"metadata[{key}]": CODE})).json()["data"]
        assert [conversation["metadata"] for conversation in page] == [{key: CODE}] * 3, key
        assert [conversation["id"] for conversation in page][1:] == ids[key], key
        assert (await http.get("/v1/conversations", params={f"metadata[{key}]": "other"})).json()["data"] == []
        assert (await http.get(f"/v1/conversations/{ids[key][0]}")).json()["metadata"] == {key: CODE}
    assert (await http.get(f"/v1/responses/{response['id']}")).json()["metadata"] == dict.fromkeys(KEYS, CODE)
    assert (await http.get(f"/v1/conversations/{other}")).json()["metadata"] == {"plain": "1"}


@pytest.mark.parametrize(
    "name", ["$where", "metadata", "metadata[]", "metadata[a", "metadata.a", "metadata[a][$gt]", "owner[$ne]"]
)
async def test_a_filter_is_never_code_and_never_an_operator(store: BothApis, name: str) -> None:
    await store.http.post("/v1/conversations", json={"metadata": {"a": "1"}})
    await store.projector.catch_up()
    answer = await store.http.get("/v1/conversations", params={name: ""})
    if answer.status_code == 200:  # no conversation has this key
        assert answer.json()["data"] == []
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
