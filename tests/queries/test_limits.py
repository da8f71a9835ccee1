"""The query API limits requests and open streams by RATE_LIMITS."""

import asyncio
from contextlib import AsyncExitStack

import httpx

from infrastructure.rate_limits import RateLimits
from infrastructure.settings import Settings
from tests.queries.conftest import open_api, served
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer

EVENTS = {"Accept": "text/event-stream"}


def limited_settings(settings: Settings, **limits: object) -> Settings:
    return settings.model_copy(update={"rate_limits": RateLimits.model_validate(limits)})


async def test_reads_count_as_requests_and_answers_have_the_remaining_number(
    settings: Settings, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    async with open_api(limited_settings(settings, tenant={"requests": 4})) as api:
        found = await api.get(f"/v1/conversations/{conversation_id}")
        missing = await api.get(f"/v1/conversations/conv_{'0' * 32}")
        unchanged = await api.get(
            f"/v1/conversations/{conversation_id}", headers={"If-None-Match": found.headers["etag"]}
        )
        headed = await api.head("/v1/conversations")
        refused = await api.get("/v1/conversations")

        assert [a.status_code for a in (found, missing, unchanged, headed, refused)] == [200, 404, 304, 200, 429]
        left = [answer.headers["x-ratelimit-remaining-requests"] for answer in (found, missing, unchanged, headed)]
        assert left == ["3", "2", "1", "0"]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await api.get("/health/ready")).json()["checks"]["limits"] == "ok"


async def test_open_streams_of_events_and_replies_are_limited_together(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    response_id, _ = await write.request_reply(conversation_id, "?")
    path = f"/v1/conversations/{conversation_id}/events"
    async with (
        served(limited_settings(settings, subject={"followers": 2})) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        async with AsyncExitStack() as streams:
            for stream in (path, f"/v1/responses/{response_id}?stream=true"):
                answer = await streams.enter_async_context(client.stream("GET", stream, headers=EVENTS))
                assert answer.status_code == 200
            assert (await client.get(f"/v1/responses/{response_id}?stream=true")).status_code == 429
            refused = await client.get(path, headers=EVENTS)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "this user on streams and WebSockets at once: Limit 2" in refused.json()["error"]["message"]
            assert (await client.get(path)).status_code == 200
            assert (await client.head(path, headers=EVENTS)).status_code == 200

        async def follow() -> int:
            async with client.stream("GET", path, headers=EVENTS) as answer:
                return answer.status_code

        async with asyncio.timeout(10):
            while await follow() == 429:  # noqa: ASYNC110 - no event says when the server has noticed the disconnects
                await asyncio.sleep(0.05)
