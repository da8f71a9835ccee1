"""Deleted content is not sent to a model, and not shown at the newest version. Restored content is shown again."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from infrastructure.settings import Settings
from projections.rebuild.rebuild import Rebuild
from projections.views.catalog import MONGO_VIEWS
from tests.commands.api_client import create_conversation, create_response, create_response_in_fork, message, open_api
from tests.projections.world import World
from tests.queries.conftest import open_api as open_query_api
from tests.scripted_provider import ScriptedProvider, scripted_provider

SECRET = "platypus"


class Store:
    """Both APIs and the projector, which runs only in `catch_up` and `rebuild`."""

    def __init__(
        self, commands: httpx.AsyncClient, queries: httpx.AsyncClient, world: World, provider: ScriptedProvider
    ) -> None:
        self.commands = commands
        self.queries = queries
        self.world = world
        self.provider = provider

    async def get(self, path: str) -> Any:
        answer = await self.queries.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.text

    async def text_of(self, *paths: str) -> str:
        return "\n".join([json.dumps(await self.get(path)) for path in paths])

    async def sent_for(self, text: str, **body: Any) -> str:
        """Creates a response. Returns the request that the provider got, as JSON."""
        await create_response(self.commands, text, **body)
        return json.dumps(self.provider.requests[-1])

    async def add(self, conversation_id: str, *texts: str) -> list[str]:
        items = [message(text) for text in texts]
        answer = await self.commands.post(f"/v1/conversations/{conversation_id}/items", json={"items": items})
        return [item["id"] for item in answer.json()["data"]]

    async def delete(self, path: str) -> None:
        answer = await self.commands.delete(path)
        assert answer.status_code == 200, answer.text

    async def catch_up(self) -> None:
        await self.world.catch_up()

    async def lose_redis(self) -> None:
        await self.world.redis.flushall()

    async def rebuild(self) -> None:
        rebuilt = Rebuild(
            [*MONGO_VIEWS],
            settings=self.world.settings,
            pool=self.world.pool,
            database=self.world.database,
            make_projector=self.world.projector,
            workers=1,
        )
        await rebuilt.run()

    async def in_every_state(self, check: Callable[[], Awaitable[None]], *, rebuild: bool = False) -> None:
        """Checks with current views, and after a loss of Redis's data. `rebuild`: also after a rebuild."""
        for change in (self.catch_up, self.lose_redis, *([self.rebuild] if rebuild else [])):
            await change()
            await self.catch_up()
            await check()


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[Store]:
    settings = settings.model_copy(update={"openai_base_url": provider.url, "model_window": 100_000})
    world = World(settings)
    await world.pool.open()
    async with open_api(settings) as commands, open_query_api(settings) as queries:
        yield Store(commands, queries, world, provider)
    await world.close()


async def test_a_retracted_item_is_not_shown_in_forks_or_chains(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands)
    [secret, _] = await store.add(conversation_id, f"the {SECRET}", "beta")
    first = await create_response(store.commands, "one", conversation=conversation_id)
    second = await create_response_in_fork(store.commands, "two", first)
    third = await create_response(store.commands, "three", previous_response_id=second["id"])
    fork_of_fork = await create_response_in_fork(store.commands, "four", second)
    conversations = {response["conversation"]["id"] for response in (first, second, third, fork_of_fork)}
    assert len(conversations) == 3
    contexts = [f"/v1/conversations/{each}/context" for each in conversations]
    await store.catch_up()
    assert (await store.text_of(*contexts)).count(SECRET) == 3
    await store.delete(f"/v1/conversations/{conversation_id}/items/{secret}")

    async def check() -> None:
        assert SECRET not in await store.text_of(*contexts)
        for previous in (first, second, third, fork_of_fork):
            sent = await store.sent_for("more", previous_response_id=previous["id"])
            assert "beta" in sent
            assert SECRET not in sent
            compact = {"model": "scripted", "previous_response_id": previous["id"]}
            compacted = await store.commands.post("/v1/responses/compact", json=compact)
            assert (compacted.status_code, SECRET in compacted.text) == (200, False)
            assert SECRET not in json.dumps(store.provider.requests[-1])
        for each in conversations:
            assert SECRET not in await store.sent_for("and here", conversation=each)

    await check()  # Redis has old snapshots
    await store.in_every_state(check)


async def test_the_text_of_a_retracted_answer_is_not_in_its_response(store: Store) -> None:
    store.provider.script = lambda exchange: exchange.stream_text("the ", SECRET, " swims")
    conversation_id = await create_conversation(store.commands)
    body = {"conversation": conversation_id, "temperature": 0.5}
    headers = {"Idempotency-Key": "k"}
    answered = await store.commands.post("/v1/responses", json={"input": "who swims?", **body}, headers=headers)
    response = answered.json()
    assert SECRET in answered.text
    paths = [
        f"/v1/responses/{response['id']}",
        f"/v1/responses/{response['id']}?stream=true",
        f"/v1/conversations/{conversation_id}/responses",
        f"/v1/conversations/{conversation_id}/items",
        f"/v1/conversations/{conversation_id}/context",
    ]
    await store.catch_up()
    assert (await store.text_of(*paths)).count(SECRET) > 5
    await store.delete(f"/v1/conversations/{conversation_id}/items/{response['output'][0]['id']}")

    async def check() -> None:
        found = await store.text_of(*paths)
        assert SECRET not in found
        assert "who swims?" in found
        repeated = await store.commands.post("/v1/responses", json={"input": "who swims?", **body}, headers=headers)
        assert (repeated.status_code, SECRET in repeated.text) == (200, False)
        stream = await store.get(paths[1])
        assert "response.completed" in stream
        assert (await store.get(paths[0]))["output"] == []

    await store.in_every_state(check)


async def test_a_retracted_question_is_not_in_the_input_of_its_response(store: Store) -> None:
    response = await create_response(store.commands, [message("before"), message(f"the {SECRET}"), message("after")])
    input_items = f"/v1/responses/{response['id']}/input_items"
    responses = f"/v1/conversations/{response['conversation']['id']}/responses"
    await store.catch_up()
    [after, secret, before] = (await store.get(input_items))["data"]
    assert SECRET in await store.text_of(responses)
    await store.delete(f"/v1/conversations/{response['conversation']['id']}/items/{secret['id']}")

    async def check() -> None:
        page = await store.get(input_items)
        assert [item["id"] for item in page["data"]] == [after["id"], before["id"]]
        assert (await store.get(f"{input_items}?limit=1"))["has_more"] is True
        assert [item["id"] for item in (await store.get(f"{input_items}?after={secret['id']}"))["data"]] == [
            before["id"]
        ]
        [listed] = (await store.get(responses))["data"]
        assert [item["id"] for item in listed["input"]] == [before["id"], after["id"]]

    await store.in_every_state(check)


async def test_a_fork_of_a_deleted_conversation_reports_the_lost_items(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands, instructions="Be brief.")
    await store.add(conversation_id, f"the {SECRET}", "beta")
    first = await create_response(store.commands, "one", conversation=conversation_id)
    fork = await create_response_in_fork(store.commands, "two", first)
    fork_id = fork["conversation"]["id"]
    context = f"/v1/conversations/{fork_id}/context"
    await store.catch_up()
    tag = (await store.queries.get(context)).headers["etag"]
    await store.delete(f"/v1/conversations/{conversation_id}")

    async def check() -> None:
        answer = await store.queries.get(context, headers={"If-None-Match": tag})
        assert answer.status_code == 200  # not 304
        body = answer.json()
        assert SECRET not in answer.text
        assert "two" in answer.text
        lost = {"from": None, "to": first["output"][0]["id"], "count": 4, "reason": "deleted"}
        assert body["left_out"] == [lost]
        for way in ({"previous_response_id": fork["id"]}, {"conversation": fork_id}):
            sent = await store.sent_for("more", **way)
            assert "two" in sent
            assert "Be brief." in sent
            assert SECRET not in sent

    answer = await store.queries.get(context)
    assert (SECRET in answer.text, answer.json()["left_out"][0]["count"]) == (False, 4)
    await store.catch_up()
    assert (await store.queries.get(context, headers={"If-None-Match": tag})).status_code == 200
    await check()
    tag = (await store.queries.get(context)).headers["etag"]
    await store.in_every_state(check)
    gone = await store.commands.post("/v1/responses", json={"input": "x", "previous_response_id": first["id"]})
    assert (gone.status_code, gone.json()["error"]["code"]) == (400, "previous_response_not_found")


async def test_the_items_of_a_deleted_response_are_not_shown_in_chains_or_forks(
    store: Store,
) -> None:
    first = await create_response(store.commands, f"the {SECRET}")
    second = await create_response(store.commands, "two", previous_response_id=first["id"])
    fork = await create_response_in_fork(store.commands, "other", first)
    assert second["conversation"] == first["conversation"] != fork["conversation"]
    contexts = [f"/v1/conversations/{each['conversation']['id']}/context" for each in (second, fork)]
    await store.catch_up()
    assert (await store.text_of(*contexts)).count(SECRET) == 2
    await store.delete(f"/v1/responses/{first['id']}")

    async def check() -> None:
        assert SECRET not in await store.text_of(*contexts)
        for previous, text in ((second, "two"), (fork, "other")):
            sent = await store.sent_for("more", previous_response_id=previous["id"])
            assert text in sent
            assert SECRET not in sent

    await check()
    await store.in_every_state(check)
    await store.delete(f"/v1/conversations/{second['conversation']['id']}")
    body = await store.get(f"/v1/conversations/{fork['conversation']['id']}/context")
    assert [left_out["reason"] for left_out in body["left_out"]] == ["deleted"]
    assert "other" in await store.sent_for("more", previous_response_id=fork["id"])


@pytest.mark.parametrize("deletion", ["the item", "its conversation"])
async def test_the_copies_of_a_deleted_item_are_not_shown(store: Store, deletion: str) -> None:
    original = await create_conversation(store.commands)
    [secret] = await store.add(original, f"the {SECRET}")
    conversation_id = await create_conversation(store.commands)
    reference = {"type": "item_reference", "id": secret}
    first = await create_response(store.commands, [message("see"), reference], conversation=conversation_id)
    second = await create_response(store.commands, [reference, message("again")])
    await store.catch_up()
    [copy] = [
        item["id"]
        for item in (await store.get(f"/v1/conversations/{conversation_id}/items"))["data"]
        if SECRET in json.dumps(item)
    ]
    third = await create_response(store.commands, [{"type": "item_reference", "id": copy}, message("and again")])
    paths = [f"/v1/conversations/{conversation_id}/items", f"/v1/conversations/{conversation_id}/responses"]
    paths += [f"/v1/conversations/{each['conversation']['id']}/context" for each in (first, second, third)]
    paths += [f"/v1/responses/{each['id']}/input_items" for each in (first, second, third)]
    await store.catch_up()
    for path in paths:
        assert SECRET in await store.text_of(path), path
    await store.delete(
        f"/v1/conversations/{original}/items/{secret}" if deletion == "the item" else f"/v1/conversations/{original}"
    )

    async def check() -> None:
        assert SECRET not in await store.text_of(*paths)
        page = await store.get(f"/v1/conversations/{conversation_id}/items?limit=1&order=asc")
        assert (page["data"][0]["content"][0]["text"], page["has_more"]) == ("see", True)
        page = await store.get(f"/v1/conversations/{conversation_id}/items?limit=1&order=asc&after={page['last_id']}")
        assert page["data"][0]["role"] == "assistant"
        answer = await store.queries.get(f"/v1/conversations/{conversation_id}/items/{copy}")
        assert answer.status_code == 404
        for each in (first, second, third):
            assert SECRET not in await store.sent_for("more", previous_response_id=each["id"])
        for named in (secret, copy):
            repeated = [{"type": "item_reference", "id": named}, message("x")]
            answer = await store.commands.post("/v1/responses", json={"input": repeated})
            assert answer.status_code == 404

    assert SECRET not in await store.sent_for("more", previous_response_id=first["id"])
    await store.in_every_state(check, rebuild=deletion == "the item")


async def test_a_client_cannot_bring_back_an_item_that_a_fork_lost(store: Store) -> None:
    conversation_id = await create_conversation(store.commands)
    [secret] = await store.add(conversation_id, f"the {SECRET}")
    first = await create_response(store.commands, "one", conversation=conversation_id)
    fork = await create_response_in_fork(store.commands, "two", first)
    await store.delete(f"/v1/conversations/{conversation_id}")
    repeated = [{**message(f"the {SECRET}"), "id": secret}, message("three")]
    await create_response(store.commands, repeated, previous_response_id=fork["id"])
    assert SECRET not in json.dumps(store.provider.requests[-1])
    # This text comes from the client.
    await create_response(store.commands, repeated)
    assert SECRET in json.dumps(store.provider.requests[-1])


async def test_after_deletions_each_request_of_a_fork_is_rendered_as_sent(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands)
    items = await store.add(conversation_id, "one", "two", "three", "four", "five")
    first = await create_response(store.commands, "q", conversation=conversation_id)
    fork = await create_response_in_fork(store.commands, "f1", first)
    elsewhere = await create_conversation(store.commands)
    [original] = await store.add(elsewhere, "copied")
    target = {"conversation": fork["conversation"]["id"]}
    responses = [fork]
    reference = [message("f2"), {"type": "item_reference", "id": original}]
    responses.append(await create_response(store.commands, reference, **target))
    for number, path in enumerate(
        (
            f"/v1/conversations/{conversation_id}/items/{items[1]}",
            f"/v1/conversations/{conversation_id}/items/{items[3]}",
            f"/v1/conversations/{elsewhere}/items/{original}",
            f"/v1/conversations/{conversation_id}",
        )
    ):
        await store.delete(path)
        responses.append(await create_response(store.commands, f"after {number}", **target))
    for response in responses:
        context = await store.get(f"/v1/responses/{response['id']}/context")
        assert context["request_sha256_matches"] is True


async def test_a_restored_item_is_shown_again_at_its_old_depth(store: Store) -> None:
    conversation_id = await create_conversation(store.commands)
    [_, secret, _] = await store.add(conversation_id, "alpha", f"the {SECRET}", "gamma")
    first = await create_response(store.commands, "one", conversation=conversation_id)
    fork = await create_response_in_fork(store.commands, "two", first)
    path = f"/v1/conversations/{conversation_id}"
    pinned = await store.commands.post(f"{path}/items/{secret}/pin")
    before = pinned.json()["version"]
    await store.delete(f"{path}/items/{secret}")
    late = await create_response_in_fork(store.commands, "three", first)
    contexts = [
        f"/v1/conversations/{each}/context"
        for each in (conversation_id, *(r["conversation"]["id"] for r in (fork, late)))
    ]
    await store.catch_up()
    assert SECRET not in await store.text_of(*contexts, f"{path}/items")
    headers = {"Idempotency-Key": "restore"}

    restored = await store.commands.post(f"{path}/items/{secret}/restore", headers=headers)

    assert (restored.status_code, restored.json()["id"], SECRET in restored.text) == (200, secret, True)
    repeated = await store.commands.post(f"{path}/items/{secret}/restore")
    assert (repeated.json(), repeated.headers["etag"]) == (restored.json(), restored.headers["etag"])

    async def check() -> None:
        for context in contexts:
            shown = await store.get(context)
            assert [SECRET in json.dumps(item) for item in shown["items"]][:3] == [False, True, False]
        listed = (await store.get(f"{path}/items?order=asc"))["data"]
        assert [item["id"] for item in listed].index(secret) == 1
        assert (await store.get(f"{path}/items/{secret}"))["id"] == secret
        assert SECRET in await store.text_of(f"{path}/items?as_of={before}")
        assert SECRET not in await store.text_of(f"{path}/items?as_of={before + 1}")
        for response in (first, fork, late):
            recorded = await store.get(f"/v1/responses/{response['id']}/context")
            assert (recorded["request_sha256_matches"], SECRET in json.dumps(recorded)) == (True, response is not late)
        more = await create_response(store.commands, "more", previous_response_id=late["id"])
        assert SECRET in json.dumps(store.provider.requests[-1])
        await store.catch_up()
        assert (await store.get(f"/v1/responses/{more['id']}/context"))["request_sha256_matches"] is True

    await store.in_every_state(check, rebuild=True)
    await store.delete(f"{path}/items/{secret}")
    repeated = await store.commands.post(f"{path}/items/{secret}/restore", headers=headers)
    assert (repeated.status_code, SECRET in repeated.text) == (200, False), (
        "a repeat shows no content that is deleted again"
    )
    await store.catch_up()
    assert SECRET not in await store.text_of(*contexts, f"{path}/items")
    assert SECRET in await store.text_of(f"{path}/items?as_of={before + 3}")


async def test_a_restored_answer_is_in_its_response_again(store: Store) -> None:
    response = await create_response(store.commands, "one", conversation=await create_conversation(store.commands))
    [answer] = response["output"]
    path = f"/v1/conversations/{response['conversation']['id']}/items/{answer['id']}"
    await store.delete(path)
    await store.catch_up()
    assert (await store.get(f"/v1/responses/{response['id']}"))["output"] == []

    await store.commands.post(f"{path}/restore")

    async def check() -> None:
        assert (await store.get(f"/v1/responses/{response['id']}"))["output"] == [answer]

    await store.in_every_state(check, rebuild=True)


async def test_a_restore_brings_back_no_pin_and_withdraws_a_summary(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands, context_policy={"budget": 2_000})
    path = f"/v1/conversations/{conversation_id}"
    [secret, *_] = await store.add(conversation_id, f"the {SECRET}", *(f"word {number} " * 60 for number in range(9)))
    await store.commands.post(f"{path}/items/{secret}/pin")
    await store.delete(f"{path}/items/{secret}")
    compacted = await store.commands.post(f"{path}/compact", json={"model": "scripted"})
    assert compacted.status_code == 200, compacted.text
    assert (await store.commands.post(f"{path}/items/{secret}/restore")).status_code == 200

    async def check() -> None:
        context = await store.get(f"{path}/context")
        assert context["summary"] is None, "the summary was made without the item"
        assert context["items"][0]["id"] == secret
        assert not any(item.get("pinned") for item in context["items"])

    await store.in_every_state(check)
    for unknown in (f"msg_{0:032x}", (await store.add(await create_conversation(store.commands), "other"))[0]):
        assert (await store.commands.post(f"{path}/items/{unknown}/restore")).status_code == 404
    first = await create_response(store.commands, f"the {SECRET}")
    second = await create_response(store.commands, "two", previous_response_id=first["id"])
    chain = f"/v1/conversations/{first['conversation']['id']}/items/{first['output'][0]['id']}/restore"
    copied = await create_response(
        store.commands,
        [{"type": "item_reference", "id": secret}],
        conversation=await create_conversation(store.commands),
    )
    await store.delete(f"/v1/responses/{first['id']}")
    assert (await store.commands.post(chain)).status_code == 404, "its response is deleted"
    assert second["status"] == "completed"
    await store.catch_up()
    copies = f"/v1/conversations/{copied['conversation']['id']}/items"
    copy = (await store.get(f"{copies}?order=asc"))["data"][0]["id"]
    await store.delete(f"{copies}/{copy}")
    await store.delete(f"{path}/items/{secret}")
    assert (await store.commands.post(f"{copies}/{copy}/restore")).status_code == 404, "its original is deleted"
    await store.delete(path)
    assert (await store.commands.post(f"{path}/items/{secret}/restore")).status_code == 404


async def test_a_fork_restores_only_items_that_the_fork_retracted(store: Store) -> None:
    conversation_id = await create_conversation(store.commands)
    [secret, other] = await store.add(conversation_id, f"the {SECRET}", "beta")
    first = await create_response(store.commands, "one", conversation=conversation_id)
    fork = (await create_response_in_fork(store.commands, "two", first))["conversation"]["id"]
    last = await create_response(store.commands, "three", conversation=fork)
    child = (await create_response_in_fork(store.commands, "four", last))["conversation"]["id"]
    contexts = [f"/v1/conversations/{each}/context" for each in (fork, child)]
    await store.delete(f"/v1/conversations/{fork}/items/{secret}")
    await store.catch_up()
    assert SECRET not in await store.text_of(*contexts)
    restore = f"/v1/conversations/{fork}/items/{secret}/restore"
    assert (await store.commands.post(restore)).json()["id"] == secret

    async def check() -> None:
        assert (await store.text_of(*contexts)).count(SECRET) == 2

    await store.in_every_state(check)
    await store.delete(f"/v1/conversations/{conversation_id}/items/{secret}")
    assert (await store.commands.post(restore)).status_code == 404
    assert (await store.commands.post(f"/v1/conversations/{fork}/items/{other}/restore")).status_code == 200
