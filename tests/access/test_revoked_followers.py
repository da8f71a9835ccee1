"""The stream of a revoked API key ends with an `error` event."""

import asyncio

import httpx
import pytest

from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.access.keyed_apis import open_apis
from tests.access.made_keys import execute, store_new_key
from tests.queries.conftest import served


@pytest.mark.parametrize("has_events", [False, True])
async def test_a_stream_ends_when_its_key_is_revoked_and_shows_nothing_more(
    settings: Settings, has_events: bool
) -> None:
    key, other = (store_new_key(settings.postgres_url, scopes=["read", "write", "admin"]) for _ in range(2))
    async with (
        open_apis(settings) as apis,
        served(settings.model_copy(update={"auth_mode": "keys", "comment_seconds": 0.3})) as url,
    ):
        created = await apis.send(other, "POST", "/v1/conversations", json={"title": "before"})
        path = f"/v1/conversations/{created.json()['id']}"
        headers = {"authorization": f"Bearer {key.secret}", "accept": "text/event-stream"}
        received = ""
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as client,
            client.stream("GET", f"{path}/events", headers=headers) as stream,
        ):
            assert stream.status_code == 200
            async with asyncio.timeout(10):
                async for text in stream.aiter_text():
                    received += text
                    if "before" in text:
                        revoke = "UPDATE api_keys SET revoked_at = now() WHERE id = %s"
                        await asyncio.to_thread(execute, settings.postgres_url, revoke, uuid_of(key.id))
                        if has_events:
                            await asyncio.sleep(2)
                            answer = await apis.send(other, "POST", path, json={"title": "afterwards"})
                            assert answer.status_code == 200
        assert "before" in received
        assert '"invalid_api_key"' in received.rpartition("event: error")[2], "the stream says why it ends"
        assert "afterwards" not in received
