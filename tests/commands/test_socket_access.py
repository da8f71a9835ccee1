"""Who may use a WebSocket. The credential is checked at the handshake and for each `response.create`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from infrastructure.settings import Settings
from tests.commands.served_api import ServedApi, closed_with, error_to, response_to, served_api
from tests.scripted_provider import ScriptedProvider
from tests.user_service import SECRET, token


@pytest.fixture
async def served(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[ServedApi]:
    login = {"auth_mode": "jwt", "auth_secret": SECRET, "auth_clock_skew": 0, "openai_base_url": provider.url}
    async with served_api(Settings(**{**settings.model_dump(), **login})) as api:
        yield api


def bearer(**changed: Any) -> str:
    return f"Bearer {token(**changed)}"


async def test_a_handshake_without_a_valid_credential_is_refused_with_an_http_answer(served: ServedApi) -> None:
    for headers in ({}, {"Authorization": "Bearer any"}, {"Authorization": bearer(exp=1)}):
        with pytest.raises(InvalidStatus) as refused:
            await served.socket(**headers).__aenter__()
        answer = refused.value.response
        assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert answer.body is not None
        assert json.loads(answer.body)["error"]["type"] == "authentication_error"


async def test_a_message_after_the_token_has_expired_closes_the_socket(served: ServedApi) -> None:
    ends_at = int(time.time()) + 3
    async with served.socket(Authorization=bearer(exp=ends_at)) as client:
        assert (await response_to(client))["status"] == "completed"
        await asyncio.sleep(max(0, ends_at - time.time()))
        assert await error_to(client) == (401, "invalid_token", None)
        assert await closed_with(client) == (1008, "The credential is not valid any more.")


async def test_each_message_is_refused_if_the_token_lacks_the_scope_reply(served: ServedApi) -> None:
    async with served.socket(Authorization=bearer(scope="read write")) as client:
        for _ in range(2):
            assert await error_to(client) == (403, "missing_scope", None)
    async with served.socket(Authorization=bearer(scope="admin")) as client:
        assert (await response_to(client))["status"] == "completed"
