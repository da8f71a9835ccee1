"""What each user sees of a conversation, and may do with it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from context.snapshot_from_log import refill
from domain.commands import Command, ShareConversation, UnshareConversation
from domain.events import Share
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint, mint_uuid
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import make_pool
from projections.views.conversations import activity_key, shared_with_subject
from projections.views.list_terms import list_terms, share_terms
from projections.views.partitions import PARTITIONS, partition_of, position_key
from projections.views.writes import Document
from tests.access.apis_as import ADMIN, TENANT, Apis, open_apis, user, without_id
from tests.queries.proxy import Proxy
from tests.scripted_provider import ScriptedProvider, scripted_provider

ANN, BOB, EVE = user("ann"), user("bob"), user("ann", tenant="other")
ROOT = user("root", scopes=ADMIN)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(settings.postgres_url)
    await proxy.restore()
    yield proxy
    await proxy.cut()


@pytest.fixture
async def apis(settings: Settings, provider: ScriptedProvider, postgres: Proxy) -> AsyncIterator[Apis]:
    """The query API reaches Postgres through the proxy."""
    settings = settings.model_copy(update={"openai_base_url": provider.url, "default_model": "scripted"})
    behind_proxy = settings.model_copy(update={"postgres_url": postgres.url})
    async with open_apis(settings, query_settings=behind_proxy) as apis:
        yield apis


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[EventLog]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield log
    await log.close()


async def execute(log: EventLog, principal: Principal, conversation_id: str, command: Command) -> None:
    await log.append(
        AppendRequest(
            principal=principal,
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id="test",
        )
    )


async def share(log: EventLog, conversation_id: str, subject: str | None, role: Any) -> None:
    await execute(log, ANN, conversation_id, ShareConversation(share=Share(role=role, subject=subject)))


async def refill_snapshot(settings: Settings, conversation_id: str) -> None:
    """Stores a snapshot at version 3."""
    pool, client = make_pool(settings.postgres_url), redis.connect(settings)
    await pool.open()
    await refill(EventReader(pool), client, TENANT, conversation_id, 3)
    await client.aclose()
    await pool.close()


async def paths_of(apis: Apis, principal: Principal, conversation: str, response: str) -> list[str]:
    items = (await apis.get(principal, f"/v1/conversations/{conversation}/items")).json()["data"]
    return [
        f"/v1/conversations/{conversation}",
        f"/v1/conversations/{conversation}/items",
        f"/v1/conversations/{conversation}/items?limit=1&after={items[0]['id']}",
        f"/v1/conversations/{conversation}/items/{items[0]['id']}",
        f"/v1/conversations/{conversation}/context",
        f"/v1/conversations/{conversation}/events",
        f"/v1/conversations/{conversation}/responses",
        f"/v1/responses/{response}",
        f"/v1/responses/{response}?stream=true",
        f"/v1/responses/{response}/input_items",
        f"/v1/responses/{response}/context",
    ]


async def test_an_invisible_conversation_is_answered_like_one_that_does_not_exist(apis: Apis, log: EventLog) -> None:
    conversation = await apis.create(ANN, "secret", title="Title")
    response = (await apis.reply(ANN, "why?", conversation=conversation))["id"]
    await apis.projector.catch_up()
    paths = await paths_of(apis, ANN, conversation, response)
    nothing, no_response = mint("conv"), mint("resp")
    for shared_with, sees in ((None, (ANN, ROOT)), ("bob", (ANN, ROOT, BOB))):
        if shared_with is not None:
            await share(log, conversation, shared_with, "reader")
            await apis.projector.catch_up()
        for path in paths:
            for principal in (ANN, BOB, ROOT, EVE):
                answer = await apis.get(principal, path)
                if principal in sees:
                    assert answer.status_code == 200, (path, principal, answer.text)
                    continue
                unknown = path.replace(conversation, nothing).replace(response, no_response)
                expected = without_id(await apis.get(principal, unknown), nothing, no_response)
                assert without_id(answer, conversation, response) == expected, (path, principal)
                assert expected[0] == 404
        for principal in (BOB, EVE, ANN, ROOT):
            assert await apis.listed(principal) == ([conversation] if principal in sees else [])
            refused = await apis.get(principal, f"/v1/conversations?after={conversation}")
            assert refused.status_code == (200 if principal in sees else 400)
            if principal not in sees:
                other = await apis.get(principal, f"/v1/conversations?after={nothing}")
                assert without_id(refused, conversation) == without_id(other, nothing)
    await execute(log, ANN, conversation, UnshareConversation(subject="bob"))
    assert (await apis.get(BOB, paths[0])).status_code == 404


async def test_a_request_cannot_name_content_that_the_user_may_not_see(
    apis: Apis, log: EventLog, provider: ScriptedProvider
) -> None:
    conversation = await apis.create(ANN, "secret")
    response = await apis.reply(ANN, "why?", conversation=conversation)
    item = response["output"][0]["id"]
    sent = len(provider.requests)

    def bodies(conversation: str, response: str, item: str) -> list[tuple[str, dict[str, Any]]]:
        reference = [{"type": "item_reference", "id": item}]
        return [
            ("/v1/responses", {"input": "?", "conversation": conversation}),
            ("/v1/responses", {"input": "?", "conversation": conversation, "store": False}),
            ("/v1/responses", {"input": "?", "previous_response_id": response}),
            ("/v1/responses", {"input": reference}),
            ("/v1/responses/input_tokens", {"input": "?", "conversation": conversation}),
            ("/v1/responses/input_tokens", {"input": reference}),
            ("/v1/responses/compact", {"model": "scripted", "previous_response_id": response}),
            (f"/v1/conversations/{conversation}/compact", {}),
            (f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
            (f"/v1/responses/{response}/cancel", {}),
        ]

    unknown_ids = mint("conv"), mint("resp"), mint("msg")
    own_ids = conversation, response["id"], item
    for (path, body), (unknown_path, unknown_body) in zip(bodies(*own_ids), bodies(*unknown_ids), strict=True):
        for principal in (BOB, EVE):
            answer = await apis.post(principal, path, body or None)
            expected = await apis.post(principal, unknown_path, unknown_body or None)
            assert without_id(answer, *own_ids) == without_id(expected, *unknown_ids), (path, body)
            assert answer.status_code in (400, 404)
    for principal in (BOB, EVE):
        assert (await apis.request(principal, "DELETE", f"/v1/responses/{response['id']}")).status_code == 404
        assert (await apis.request(principal, "DELETE", f"/v1/conversations/{conversation}")).status_code == 404
    assert len(provider.requests) == sent, "nothing was sent to a model"


async def test_a_reader_may_read_and_fork_but_write_nothing(
    apis: Apis, log: EventLog, provider: ScriptedProvider
) -> None:
    conversation = await apis.create(ANN, "secret")
    first = await apis.reply(ANN, "why?", conversation=conversation)
    unlisted = await apis.reply(ANN, "alone")
    for shared in (conversation, unlisted["conversation"]["id"]):
        await share(log, shared, None, "reader")
    sent, version = len(provider.requests), (await apis.get(ANN, f"/v1/conversations/{conversation}/events")).headers
    refused = [
        await apis.post(BOB, "/v1/responses", {"input": "?", "conversation": conversation}),
        await apis.post(BOB, f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
        await apis.post(BOB, f"/v1/conversations/{conversation}/compact"),
        await apis.post(BOB, f"/v1/conversations/{conversation}", {"title": "Mine"}),
        await apis.post(BOB, f"/v1/responses/{first['id']}/cancel"),
        await apis.request(BOB, "DELETE", f"/v1/responses/{first['id']}"),
        await apis.request(BOB, "DELETE", f"/v1/conversations/{conversation}"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [(403, "not_allowed")] * 7
    assert len(provider.requests) == sent
    assert (await apis.get(ANN, f"/v1/conversations/{conversation}/events")).headers["etag"] == version["etag"]

    for response in (first, unlisted):
        fork = await apis.reply(BOB, "and?", previous_response_id=response["id"])
        assert fork["conversation"]["id"] != response["conversation"]["id"]
        started = (await apis.get(BOB, f"/v1/conversations/{fork['conversation']['id']}/events")).json()["data"][0]
        assert (started["data"]["owner"], started["actor"]) == ("bob", "bob")
        assert "Hello, world!" in str(provider.requests[-1]["messages"])
    copied = await apis.reply(BOB, [{"type": "item_reference", "id": first["output"][0]["id"]}], store=False)
    assert copied["status"] == "completed"
    assert (await apis.post(BOB, "/v1/responses/input_tokens", {"input": "?", "conversation": conversation})).is_success


async def test_a_writer_may_write_but_not_delete_the_conversation(apis: Apis, log: EventLog) -> None:
    conversation = await apis.create(ANN, "secret")
    unlisted = await apis.reply(ANN, "alone")
    for shared in (conversation, unlisted["conversation"]["id"]):
        await share(log, shared, "bob", "writer")
    response = await apis.reply(BOB, "why?", conversation=conversation)
    assert response["conversation"]["id"] == conversation
    continued = await apis.reply(BOB, "and?", previous_response_id=unlisted["id"])
    assert continued["conversation"]["id"] == unlisted["conversation"]["id"]
    assert (await apis.request(BOB, "DELETE", f"/v1/responses/{response['id']}")).status_code == 200
    assert (await apis.request(BOB, "DELETE", f"/v1/conversations/{conversation}")).status_code == 403
    assert (await apis.request(ROOT, "DELETE", f"/v1/conversations/{conversation}")).status_code == 200


async def test_without_postgres_only_the_owner_and_an_admin_see_a_shared_conversation(
    apis: Apis, log: EventLog, postgres: Proxy
) -> None:
    conversation = await apis.create(ANN, "secret")
    await apis.create(BOB, "mine")
    response = (await apis.reply(ANN, "why?", conversation=conversation))["id"]
    await share(log, conversation, "bob", "writer")
    await apis.projector.catch_up()
    paths = [
        path
        for path in await paths_of(apis, ANN, conversation, response)
        if not path.endswith(("/events", "/context", "?stream=true"))
    ]  # without the paths that read the log
    assert len(await apis.listed(BOB)) == 2
    await postgres.cut()
    for path in paths:
        for principal in (ANN, ROOT):
            answer = await apis.get(principal, path)
            assert (answer.status_code, answer.headers["x-consistency"]) == (200, "unverified"), (path, principal)
        for principal in (BOB, EVE):
            refused = await apis.get(principal, path)
            unknown = path.replace(conversation, mint("conv")).replace(response, mint("resp"))
            assert refused.status_code == 503, (path, principal)
            assert refused.json() == (await apis.get(principal, unknown)).json()
    assert [len(await apis.listed(principal)) for principal in (ANN, BOB, ROOT, EVE)] == [1, 1, 2, 0]


async def test_without_postgres_only_the_owner_and_an_admin_get_a_context(
    apis: Apis, log: EventLog, postgres: Proxy, settings: Settings
) -> None:
    conversation = await apis.create(ANN, "secret")
    await share(log, conversation, "bob", "reader")
    await apis.projector.catch_up()
    await refill_snapshot(settings, conversation)
    path = f"/v1/conversations/{conversation}/context"
    assert (await apis.get(BOB, path)).status_code == 200
    await postgres.cut()
    assert [(await apis.get(principal, path)).status_code for principal in (ANN, ROOT, BOB, EVE)] == [
        200,
        200,
        503,
        503,
    ]


async def test_two_users_may_use_the_same_idempotency_key(apis: Apis, provider: ScriptedProvider) -> None:
    headers = {"Idempotency-Key": "k"}
    created = {}
    for principal in (ANN, BOB, EVE):
        answers = [await apis.post(principal, "/v1/conversations", {"title": "T"}, headers=headers) for _ in range(2)]
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
        assert answers[0].json() == answers[1].json()
        created[principal] = answers[0].json()["id"]
    assert len(set(created.values())) == 3
    replies = [
        await apis.post(principal, "/v1/responses", {"input": "hi"}, headers={"Idempotency-Key": "r"})
        for principal in (ANN, BOB, ANN)
    ]
    assert replies[0].json()["id"] == replies[2].json()["id"] != replies[1].json()["id"]
    assert len(provider.requests) == 2


async def test_an_admin_sees_all_usage_of_the_tenant_and_a_user_only_their_own(apis: Apis, log: EventLog) -> None:
    conversation = await apis.create(ANN, "secret")
    await share(log, conversation, "bob", "writer")
    await apis.reply(ANN, "one", conversation=conversation)
    await apis.reply(BOB, "two", conversation=conversation)
    await apis.reply(user("bob", "other"), "three")
    await apis.reply(user("an", scopes=ANN.scopes), "four", model="scripted")
    await apis.projector.catch_up()

    async def replies(principal: Principal) -> int:
        answer = await apis.get(principal, "/v1/usage")
        return sum(row["replies"] for row in answer.json()["data"])

    principals = (ANN, BOB, ROOT, EVE, user("root", "other", ADMIN), user("nobody"))
    assert [await replies(principal) for principal in principals] == [1, 1, 3, 0, 1, 0]


async def test_a_parked_conversation_is_shown_only_to_users_who_may_see_it(apis: Apis, log: EventLog) -> None:
    conversation = await apis.create(ANN, "secret")
    await share(log, conversation, "bob", "reader")
    await apis.projector.catch_up()
    parked = {"tenant": "acme", "position": 1, "version": 1, "topic": "t", "error": "E", "at": 0}
    await apis.projector.views["projections"].update_one(
        {"_id": position_key("items", partition_of(conversation))}, {"$set": {f"parked.{conversation}": parked}}
    )
    for principal, shown in ((ANN, True), (BOB, True), (ROOT, True), (user("cat"), False), (EVE, False)):
        answer = await apis.get(principal, "/v1/projections")
        found = [entry["conversation_id"] for view in answer.json()["data"] for entry in view["parked"]]
        assert found == [conversation] * shown, principal


async def test_a_list_reads_only_conversations_that_the_user_may_see(apis: Apis) -> None:
    await apis.projector.catch_up()
    views = apis.projector.views
    await views["conversations"].insert_many([_document(number) for number in range(5_000)], ordered=False)
    for order_by in ("created", "activity"):
        path = f"/v1/conversations?order_by={order_by}"
        first = (await apis.get(user("user 7"), path)).json()
        await views.command("profile", 2)
        second = (await apis.get(user("user 7"), f"{path}&after={first['next_cursor']}")).json()
        await views.command("profile", 0)
        read = {"command.aggregate": "conversations", "ns": {"$regex": "conversations$"}}
        [profile] = await views["system.profile"].find(read).to_list()
        await views["system.profile"].drop()
        assert len({entry["id"] for entry in (*first["data"], *second["data"])}) == 40
        assert (
            profile["docsExamined"] <= 63 + 2 * PARTITIONS
        )  # 21 own conversations, 21 shared with the user, 21 shared with the tenant, view positions
        assert profile["keysExamined"] <= 130


def _document(number: int) -> Document:
    conversation_id = f"conv_{number:032}"
    shares = _shares(number)
    lists = list_terms(f"user {number % 100}", {}, None)
    lists[1]["terms"] = share_terms(shares)
    return {
        "_id": f"acme:{conversation_id}",
        "tenant": "acme",
        "id": conversation_id,
        "owner": f"user {number % 100}",
        "shared_with": shares,
        "lists": lists,
        "listed": True,
        "status": "active",
        "archived": False,
        "title": None,
        "instructions": None,
        "metadata": [],
        "version": 1,
        "updated_at": number,
        "items": 0,
        "activity": activity_key(number, conversation_id),
        "head": None,
        "first": None,
    }


def _shares(number: int) -> list[str]:
    """Every hundredth conversation is shared with user 7, every thousandth with the tenant."""
    tenant, own = shared_with_subject("user 7")
    return [own] * (number % 100 == 3) + [tenant] * (number % 1000 == 5)
