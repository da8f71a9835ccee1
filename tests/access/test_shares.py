"""Sharing a conversation over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from domain.decide import MAX_SHARES
from infrastructure.settings import Settings
from tests.principals import headers_of
from tests.replies.both_apis import BothApis, open_both_apis

ANN, BEN, EVE = headers_of("ann"), headers_of("ben"), headers_of("eve")
ADMIN = headers_of("root", "admin")
STRANGER = headers_of("ann", tenant="other")
WITH_BEN = {"with": {"subject": "ben"}, "role": "reader"}
WITH_ALL = {"with": {"tenant": True}, "role": "reader"}


@pytest.fixture
async def apis(settings: Settings) -> AsyncIterator[BothApis]:
    async with open_both_apis(settings, with_principals=True) as apis:
        yield apis


async def create(http: httpx.AsyncClient) -> str:
    """Creates a conversation of Ann. Returns the path of its shares."""
    answer = await http.post("/v1/conversations", json={}, headers=ANN)
    assert answer.status_code == 200, answer.text
    return f"/v1/conversations/{answer.json()['id']}/shares"


def share(with_whom: dict[str, Any], role: str = "reader") -> dict[str, Any]:
    return {"object": "share", "with": with_whom, "role": role}


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def shares_of(http: httpx.AsyncClient, path: str, headers: Any = ANN) -> list[dict[str, Any]]:
    answer = await http.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["has_more"]) == ("list", False)
    shares: list[dict[str, Any]] = body["data"]
    return shares


async def test_a_share_and_its_withdrawal_take_effect_on_the_next_request(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    items = path.replace("/shares", "/items")
    item = {"items": [{"type": "message", "role": "user", "content": "hi"}]}
    assert error_of(await http.post(items, json=item, headers=BEN))[:2] == (404, "not_found")
    assert (await http.get(path, headers=BEN)).status_code == 404

    shared = await http.post(path, json=WITH_BEN, headers=ANN)
    assert (shared.status_code, shared.json()) == (200, share({"subject": "ben"}))
    assert shared.headers["etag"] == '"2"'
    assert await shares_of(http, path, BEN) == [share({"subject": "ben"})]
    assert error_of(await http.post(items, json=item, headers=BEN))[:2] == (403, "not_allowed")
    assert (await http.get(path, headers=EVE)).status_code == 404

    writer = await http.post(path, json={**WITH_BEN, "role": "writer"}, headers=ANN)
    assert writer.json() == share({"subject": "ben"}, "writer")
    assert (await http.post(items, json=item, headers=BEN)).status_code == 200
    repeated = await http.post(path, json={**WITH_BEN, "role": "writer"}, headers=ANN)
    assert (repeated.status_code, repeated.headers["etag"]) == (200, '"4"'), "the same share changes nothing"

    withdrawn = await http.delete(path, params={"subject": "ben"}, headers=ANN)
    assert (withdrawn.status_code, withdrawn.json()) == (
        200,
        {"object": "share.deleted", "with": {"subject": "ben"}, "deleted": True},
    )
    assert (await http.post(items, json=item, headers=BEN)).status_code == 404
    assert (await http.get(path, headers=BEN)).status_code == 404
    assert await shares_of(http, path) == []


async def test_a_share_with_the_tenant_gives_access_to_its_users_only(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    shared = await http.post(path, json=WITH_ALL, headers=ANN)
    assert shared.json() == share({"tenant": True})
    assert (await http.get(path, headers=EVE)).status_code == 200
    assert (await http.get(path, headers=STRANGER)).status_code == 404
    assert error_of(await http.post(path, json=WITH_BEN, headers=STRANGER))[:2] == (404, "not_found")
    withdrawn = await http.delete(path, params={"tenant": "true"}, headers=ANN)
    assert withdrawn.json() == {"object": "share.deleted", "with": {"tenant": True}, "deleted": True}
    assert (await http.get(path, headers=EVE)).status_code == 404


async def test_only_the_owner_and_an_admin_see_all_shares(
    apis: BothApis,
) -> None:
    http = apis.http
    path = await create(http)
    for body in (WITH_BEN, {"with": {"subject": "eve"}, "role": "writer"}, WITH_ALL):
        assert (await http.post(path, json=body, headers=ADMIN)).status_code == 200
    everything = [share({"subject": "ben"}), share({"subject": "eve"}, "writer"), share({"tenant": True})]
    assert await shares_of(http, path, ANN) == everything
    assert await shares_of(http, path, ADMIN) == everything
    assert await shares_of(http, path, BEN) == [everything[0], everything[2]]
    assert await shares_of(http, path, headers_of("zoe")) == [everything[2]]


async def test_only_the_owner_and_an_admin_can_change_shares(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    await http.post(path, json={"with": {"subject": "ben"}, "role": "writer"}, headers=ANN)
    with_eve = {"with": {"subject": "eve"}, "role": "reader"}
    assert error_of(await http.post(path, json=with_eve, headers=BEN))[:2] == (403, "not_allowed")
    assert error_of(await http.delete(path, params={"subject": "ben"}, headers=BEN))[:2] == (403, "not_allowed")
    reader = {**headers_of("ann"), "x-test-principal": "default/ann/read"}
    assert error_of(await http.post(path, json=with_eve, headers=reader))[:2] == (403, "missing_scope")
    assert (await http.get(path, headers=reader)).status_code == 200
    assert (await http.delete(path, params={"subject": "ben"}, headers=ADMIN)).status_code == 200
    assert await shares_of(http, path) == []


BAD_SHARES: list[tuple[Any, int, str, str | None]] = [
    ({}, 400, "invalid_value", "with"),
    ({"with": {"subject": "ben"}}, 400, "invalid_value", "role"),
    ({"with": {}, "role": "reader"}, 400, "invalid_value", "with"),
    ({"with": None, "role": "reader"}, 400, "invalid_value", "with"),
    ({"with": "ben", "role": "reader"}, 400, "invalid_value", "with"),
    ({"with": {"subject": None}, "role": "reader"}, 400, "invalid_value", "with"),
    ({"with": {"subject": ""}, "role": "reader"}, 400, "invalid_value", "with.subject"),
    ({"with": {"subject": "a\nb"}, "role": "reader"}, 400, "invalid_value", "with.subject"),
    ({"with": {"subject": "é" * 128}, "role": "reader"}, 400, "invalid_value", "with.subject"),
    ({"with": {"subject": ["ben"]}, "role": "reader"}, 400, "invalid_value", "with.subject"),
    ({"with": {"subject": "a\0b"}, "role": "reader"}, 400, "invalid_value", "with.subject"),
    ({"with": {"tenant": False}, "role": "reader"}, 400, "invalid_value", "with.tenant"),
    ({"with": {"tenant": 1}, "role": "reader"}, 400, "invalid_value", "with.tenant"),
    ({"with": {"tenant": "other"}, "role": "reader"}, 400, "invalid_value", "with.tenant"),
    ({"with": {"tenant": "other", "subject": "ben"}, "role": "reader"}, 400, "invalid_value", "with.tenant"),
    ({"with": {"tenant": True, "subject": "ben"}, "role": "reader"}, 400, "invalid_value", "with"),
    ({"with": {"subject": "ben", "tenant_id": "other"}, "role": "reader"}, 400, "unknown_parameter", "with.tenant_id"),
    ({"with": {"subject": "ben"}, "role": "owner"}, 400, "invalid_value", "role"),
    ({"with": {"subject": "ben"}, "role": "reader", "until": 1}, 400, "unknown_parameter", "until"),
    ({"with": {"subject": "ann"}, "role": "reader"}, 403, "shared_with_owner", "with"),
]


async def test_an_invalid_share_is_refused_and_changes_nothing(
    apis: BothApis,
) -> None:
    path = await create(apis.http)
    for body, *expected in BAD_SHARES:
        answer = await apis.http.post(path, json=body, headers=ANN)
        assert [*error_of(answer)] == expected, (body, answer.text)
    answer = await apis.http.get(path, headers=ANN)
    assert (answer.json()["data"], answer.headers["etag"]) == ([], '"1"')


async def test_a_withdrawal_must_name_exactly_one_existing_share(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    await http.post(path, json=WITH_BEN, headers=ANN)
    refused: list[tuple[dict[str, str], tuple[int, str, str | None]]] = [
        ({}, (400, "invalid_value", "subject")),
        ({"subject": "ben", "tenant": "true"}, (400, "invalid_value", "subject")),
        ({"tenant": "false"}, (400, "invalid_value", "subject")),
        ({"tenant": "other"}, (400, "invalid_value", "tenant")),
        ({"user": "ben"}, (400, "unknown_parameter", "user")),
        ({"subject": "eve"}, (404, "share_not_found", None)),
        ({"subject": ""}, (404, "share_not_found", None)),
        ({"subject": "a\0b"}, (404, "share_not_found", None)),
        ({"tenant": "true"}, (404, "share_not_found", None)),
    ]
    for query, expected in refused:
        assert error_of(await http.delete(path, params=query, headers=ANN)) == expected, query
    assert await shares_of(http, path) == [share({"subject": "ben"})]


async def test_a_withdrawal_with_the_idempotency_key_of_another_is_refused(
    apis: BothApis,
) -> None:
    http = apis.http
    path = await create(http)
    for subject in ("ben", "eve"):
        await http.post(path, json={"with": {"subject": subject}, "role": "reader"}, headers=ANN)
    with_key = {**ANN, "Idempotency-Key": "withdraw"}
    first = await http.delete(path, params={"subject": "ben"}, headers=with_key)
    repeated = await http.delete(path, params={"subject": "ben"}, headers=with_key)
    assert (repeated.status_code, repeated.json(), repeated.headers["idempotent-replayed"]) == (
        200,
        first.json(),
        "true",
    )
    other = await http.delete(path, params={"subject": "eve"}, headers=with_key)
    assert error_of(other)[:2] == (422, "idempotency_key_reused")
    assert await shares_of(http, path) == [share({"subject": "eve"})]


async def test_a_conversation_has_at_most_a_hundred_shares(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    bodies = [{"with": {"subject": f"user {number}"}, "role": "reader"} for number in range(MAX_SHARES)]
    answers = await asyncio.gather(*(http.post(path, json=body, headers=ANN) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await shares_of(http, path)) == MAX_SHARES
    assert error_of(await http.post(path, json=WITH_ALL, headers=ANN)) == (409, "too_many_shares", None)
    assert (await http.post(path, json={**bodies[0], "role": "writer"}, headers=ANN)).status_code == 200
    assert (await http.get(path, headers=headers_of("user 99"))).status_code == 200


async def test_the_shares_of_an_unknown_or_deleted_conversation_are_a_404(apis: BothApis) -> None:
    http = apis.http
    path = await create(http)
    await http.post(path, json=WITH_BEN, headers=ANN)
    assert (await http.delete(path.removesuffix("/shares"), headers=ANN)).status_code == 200
    for method, arguments in (
        ("GET", {}),
        ("POST", {"json": WITH_BEN}),
        ("DELETE", {"params": {"subject": "ben"}}),
    ):
        for each in (path, f"/v1/conversations/conv_{1:032x}/shares"):
            answer = await http.request(method, each, headers=ANN, **arguments)
            assert error_of(answer)[:2] == (404, "not_found")
