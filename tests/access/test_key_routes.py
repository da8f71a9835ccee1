"""The routes under `/v1/keys`, and requests with keys, in both APIs with AUTH_MODE=keys."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from infrastructure.access.api_key import CreatedApiKey
from infrastructure.settings import Settings
from tests.access.keyed_apis import KeyedApis, open_apis
from tests.access.made_keys import new_test_key, store_new_key
from tests.commands.api_client import error_of
from tests.log import Log

ROUTES = (("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", f"/v1/keys/{new_test_key().id}"))


@pytest.fixture
async def apis(settings: Settings) -> AsyncIterator[KeyedApis]:
    async with open_apis(settings) as opened:
        yield opened


@pytest.fixture
def admin(settings: Settings) -> CreatedApiKey:
    return store_new_key(settings.postgres_url, subject="root", scopes=["admin", "act_as"])


async def create(apis: KeyedApis, maker: CreatedApiKey, **body: Any) -> httpx.Response:
    return await apis.send(maker, "POST", "/v1/keys", json={"subject": "ada", "scopes": ["read"], **body})


async def test_an_admin_can_create_list_and_revoke_keys_of_its_tenant(apis: KeyedApis, admin: CreatedApiKey) -> None:
    expires_at = int(time.time()) + 3_600
    answer = await create(apis, admin, scopes=["write", "read", "reply"], name="The chat", expires_at=expires_at)
    assert answer.status_code == 200, answer.text
    created = answer.json()
    secret = created.pop("secret")
    assert created == {
        "object": "key",
        "id": created["id"],
        "name": "The chat",
        "tenant": "acme",
        "subject": "ada",
        "scopes": ["read", "reply", "write"],
        "expires_at": expires_at,
        "last_used_at": None,
        "revoked_at": None,
    }
    for method, path in (("POST", "/v1/conversations"), ("GET", "/v1/models")):
        assert (await apis.send(secret, method, path, json={})).status_code == 200

    listed = await apis.send(admin, "GET", "/v1/keys")
    assert [key["id"] for key in listed.json()["data"]] == [created["id"], admin.id]
    assert secret.rpartition("_")[2] not in listed.text

    revoked = await apis.send(admin, "DELETE", f"/v1/keys/{created['id']}")
    assert revoked.status_code == 200, revoked.text
    assert abs(revoked.json()["revoked_at"] - time.time()) < 5
    repeated = await apis.send(admin, "DELETE", f"/v1/keys/{created['id']}")
    assert repeated.json() == revoked.json()
    async with asyncio.timeout(5):
        for method, path in (("POST", "/v1/conversations"), ("GET", "/v1/models")):
            while (refused := await apis.send(secret, method, path, json={})).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert error_of(refused) == (401, "invalid_api_key", None)
            assert refused.json()["error"]["message"] == "The API key was revoked."
            assert refused.json()["error"]["type"] == "authentication_error"
            assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_a_list_of_keys_has_pages_like_other_lists(settings: Settings, apis: KeyedApis) -> None:
    maker = store_new_key(settings.postgres_url, scopes=["admin"])
    ids = [maker.id, *(store_new_key(settings.postgres_url).id for _ in range(4))]
    store_new_key(settings.postgres_url, tenant="other")

    async def page(**query: Any) -> tuple[list[int], bool]:
        answer = await apis.send(maker, "GET", "/v1/keys", params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        numbers = [ids.index(key["id"]) for key in body["data"]]
        assert [body["first_id"], body["last_id"]] == [ids[numbers[0]], ids[numbers[-1]]] if numbers else [None, None]
        return numbers, body["has_more"]

    assert await page() == ([4, 3, 2, 1, 0], False)
    assert await page(limit=2) == ([4, 3], True)
    assert await page(limit=2, after=ids[3]) == ([2, 1], True)
    assert await page(order="asc", after=ids[1]) == ([2, 3, 4], False)
    assert await page(before=ids[1], limit=2) == ([3, 2], True)
    assert await page(order="asc", before=ids[1]) == ([0], False)
    assert await page(after=ids[0]) == ([], False)
    for cursor in (new_test_key().id, store_new_key(settings.postgres_url, tenant="other").id):
        answer = await apis.send(maker, "GET", "/v1/keys", params={"after": cursor})
        assert error_of(answer) == (400, "invalid_cursor", "after")


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=["POST", "GET", "DELETE"])
async def test_only_an_admin_manages_keys(settings: Settings, apis: KeyedApis, method: str, path: str) -> None:
    key = store_new_key(settings.postgres_url, scopes=["read", "write", "reply", "audit", "act_as"])
    assert error_of(await apis.send(key, method, path, json={})) == (403, "missing_scope", None)
    # An admin's key is no admin while the key acts for a user.
    backend = store_new_key(settings.postgres_url, scopes=["admin", "act_as"])
    acting = await apis.send(backend, method, path, json={}, headers={"x-subject": "root"})
    assert error_of(acting) == (403, "missing_scope", None)


async def test_a_key_has_only_scopes_that_its_maker_has(settings: Settings, apis: KeyedApis) -> None:
    maker = store_new_key(settings.postgres_url, scopes=["admin", "audit"])
    assert (await create(apis, maker, scopes=["admin", "audit", "reply"])).status_code == 200
    refused = await create(apis, maker, scopes=["read", "act_as"])
    assert error_of(refused) == (403, "missing_scope", "scopes")
    assert "`act_as`" in refused.json()["error"]["message"]


async def test_an_admin_reaches_no_key_of_another_tenant(
    settings: Settings, apis: KeyedApis, admin: CreatedApiKey
) -> None:
    other = store_new_key(settings.postgres_url, tenant="other")
    path = f"/v1/keys/{other.id}"
    assert error_of(await apis.send(admin, "DELETE", path)) == (404, "key_not_found", "key_id")
    assert Log(settings.postgres_url).rows("SELECT FROM api_keys WHERE revoked_at IS NOT NULL") == []
    assert error_of(await create(apis, admin, tenant="other")) == (400, "unknown_parameter", "tenant")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"subject": ""}, "subject"),
        ({"subject": "é" * 128}, "subject"),
        ({"subject": "a\nb"}, "subject"),
        ({"subject": 1}, "subject"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["read"] * 100}, "scopes"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": "a\u2028b"}, "name"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": int(time.time()) - 1}, "expires_at"),
        ({"expires_at": 2**70}, "expires_at"),
        ({"expires_at": "30d"}, "expires_at"),
        ({"secret": "cs_mine"}, "secret"),
    ],
)
async def test_a_wrong_field_of_a_new_key_is_a_400_that_names_the_field(
    settings: Settings, apis: KeyedApis, admin: CreatedApiKey, body: dict[str, Any], param: str
) -> None:
    status, _, wrong = error_of(await create(apis, admin, **body))
    assert (status, wrong) == (400, param)
    assert len(Log(settings.postgres_url).rows("SELECT FROM api_keys")) == 1


async def test_the_routes_refuse_idempotency_keys_and_malformed_key_ids(apis: KeyedApis, admin: CreatedApiKey) -> None:
    body = {"subject": "ada", "scopes": ["read"]}
    answer = await apis.send(admin, "POST", "/v1/keys", json=body, headers={"idempotency-key": "k"})
    assert error_of(answer) == (400, "invalid_header", "Idempotency-Key")
    for malformed in ("key_1", admin.secret, "conv_" + "0" * 32):
        assert error_of(await apis.send(admin, "DELETE", f"/v1/keys/{malformed}")) == (400, "invalid_id", "key_id")


async def test_an_invalid_credential_is_a_401_and_is_not_shown(settings: Settings, apis: KeyedApis) -> None:
    key = store_new_key(settings.postgres_url)
    head, _, _ = key.secret.rpartition("_")
    wrong = (
        new_test_key().secret,  # a key of another store
        f"{head}_{secrets.token_hex(32)}",
        f"{head}_",
        "cs_" + "a" * 10_240,
        "sk-proj-" + "a" * 40,
    )
    for text in wrong:
        for method, path in (("POST", "/v1/conversations"), ("GET", "/v1/conversations"), ("DELETE", "/v1/nothing")):
            answer = await apis.send(text, method, path, json={})
            assert answer.status_code == 401, (text, method, answer.text)
            error = answer.json()["error"]
            assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["x-should-retry"] == "false"
            assert text not in answer.text
            assert key.id not in answer.text
    assert Log(settings.postgres_url).count() == 0


async def test_the_scope_act_as_lets_a_backend_act_for_its_users(settings: Settings, apis: KeyedApis) -> None:
    backend = store_new_key(settings.postgres_url, subject="backend", scopes=["read", "write", "reply", "act_as"])
    for subject in ("ada", "Zoë"):
        headers = {"x-subject": subject.encode()}
        answer = await apis.send(backend, "POST", "/v1/conversations", json={}, headers=headers)
        assert answer.status_code == 200, answer.text
    assert (await apis.send(backend, "POST", "/v1/conversations", json={})).status_code == 200
    rows = Log(settings.postgres_url).rows("SELECT tenant_id, subject FROM events ORDER BY notification_id")
    assert rows == [("acme", "ada"), ("acme", "Zoë"), ("acme", "backend")]


async def test_a_request_that_names_a_user_needs_the_scope_act_as_and_a_valid_name(
    settings: Settings, apis: KeyedApis
) -> None:
    plain = store_new_key(settings.postgres_url, scopes=["read", "write", "reply", "admin"])
    backend = store_new_key(settings.postgres_url, scopes=["read", "write", "act_as"])
    for method, path in (("POST", "/v1/conversations"), ("GET", "/v1/conversations")):
        for name in ("ada", plain.subject, ""):
            answer = await apis.send(plain, method, path, json={}, headers={"x-subject": name})
            assert error_of(answer) == (403, "missing_scope", "X-Subject")
        for odd in (b"", b"a\tb", b"\xff", b"a" * 256):
            answer = await apis.send(backend, method, path, json={}, headers={"x-subject": odd})
            assert error_of(answer) == (400, "invalid_header", "X-Subject")
    assert Log(settings.postgres_url).count() == 0
