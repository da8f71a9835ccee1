"""Rate limits and quotas, as a client of the command API sees them."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import httpx2
import openai
import psycopg
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from infrastructure.limits.answer_headers import duration
from infrastructure.limits.month import seconds_left_of_month
from infrastructure.rate_limits import RateLimits
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, error_of, message, open_api, post_response
from tests.commands.served_api import create, served_api, socket_error
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

Api = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def usage_of(tokens: int) -> Callable[[Exchange], None]:
    """A script that reports this many tokens."""

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("Hello.")
        exchange.text_chunk(finish_reason="stop")
        exchange.chunk(choices=[], usage={"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens})
        exchange.end_stream()

    return script


@pytest.fixture
def limited_settings(settings: Settings, provider: ScriptedProvider) -> Callable[..., Settings]:
    def with_limits(**limits: Any) -> Settings:
        changed = {
            "openai_base_url": provider.url,
            "default_model": "scripted",
            "rate_limits": RateLimits.model_validate(limits),
        }
        return settings.model_copy(update=changed)

    return with_limits


@pytest.fixture
def open_limited_api(limited_settings: Callable[..., Settings]) -> Api:
    """`async with open_limited_api(tenant={"requests": 10}) as api`"""

    @asynccontextmanager
    async def opened(**limits: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with open_api(limited_settings(**limits)) as api:
            yield api

    return opened


def is_over(answer: httpx.Response, error_type: str = "requests") -> bool:
    """Whether the answer is a 429. A 429 must have the type `error_type` and the shape of OpenAI's errors."""
    if answer.status_code != 429:
        return False
    error = answer.json()["error"]
    assert error["message"]
    assert (error["type"], error["param"], error["code"]) == (error_type, None, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-should-retry"] == "true"
    return True


async def test_answers_and_readiness_name_no_limits_if_none_are_set(
    open_limited_api: Api,
) -> None:
    async with open_limited_api() as api:
        answer = await api.post("/v1/conversations", json={})

        assert answer.status_code == 200
        assert not [name for name in answer.headers if "ratelimit" in name]
        assert "limits" not in (await api.get("/health/ready")).json()["checks"]


async def test_the_headers_of_an_answer_say_how_much_is_left(
    open_limited_api: Api,
) -> None:
    async with open_limited_api(tenant={"requests": 200, "tokens": 5_000}, subject={"requests": 5}) as api:
        created = await api.post("/v1/conversations", json={})
        missing = await api.post(f"/v1/conversations/conv_{'0' * 32}/end")
        refused = await api.post("/v1/conversations", json={"metadata": 7})

        assert [answer.status_code for answer in (created, missing, refused)] == [200, 404, 400]
        for answer, left in ((created, 4), (missing, 3), (refused, 2)):
            headers = answer.headers
            assert headers["ratelimit-policy"] == '"tenant-requests";q=200;w=60, "subject-requests";q=5;w=60'
            assert headers["ratelimit"] == f'"tenant-requests";r={195 + left};t=60, "subject-requests";r={left};t=60'
            assert headers["x-ratelimit-limit-requests"] == "5"
            assert headers["x-ratelimit-remaining-requests"] == str(left)
            assert headers["x-ratelimit-reset-requests"] == "1m0s"
            assert headers["x-ratelimit-limit-tokens"] == headers["x-ratelimit-remaining-tokens"] == "5000"


async def test_a_request_over_the_limit_is_a_429_and_stores_nothing(open_limited_api: Api, log: Log) -> None:
    async with open_limited_api(tenant={"requests": 3}) as api:
        conversation = await create_conversation(api)
        path, body = f"/v1/conversations/{conversation}/items", {"items": [message("hello")]}
        answers = [await api.post(path, json=body) for _ in range(4)]

        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert is_over(answers[-1])
        assert "this tenant on requests per min (RPM): Limit 3" in answers[-1].json()["error"]["message"]
        seconds = int(answers[-1].headers["retry-after"])
        assert 50 < seconds <= 60
        assert answers[-1].headers["ratelimit"] == f'"tenant-requests";r=0;t={seconds}'
        assert answers[-1].headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"[\d.]+s|1m0s|1m1s", answers[-1].headers["x-ratelimit-reset-requests"])
        assert len(log.events(conversation)) == 3


async def test_refused_and_repeated_requests_count_and_health_requests_do_not(
    open_limited_api: Api,
) -> None:
    async with open_limited_api(subject={"requests": 4}) as api:
        for path in ("/health/live", "/health/ready", "/openapi.json", "/docs"):
            assert "ratelimit" not in (await api.get(path)).headers
        assert (await api.request("OPTIONS", "/v1/conversations")).status_code == 204
        key = {"Idempotency-Key": "k"}
        first = await api.post("/v1/conversations", json={}, headers=key)
        repeated = await api.post("/v1/conversations", json={}, headers=key)
        assert repeated.json() == first.json()
        assert (await api.post("/v1/conversations/nonsense/end")).status_code in (400, 404)
        assert (await api.post("/v1/conversations?unknown=1")).status_code == 400

        assert is_over(await api.post("/v1/conversations", json={}, headers=key))


async def test_an_override_replaces_the_limits_of_its_tenant(open_limited_api: Api) -> None:
    async with open_limited_api(tenant={"requests": 100}, overrides={"default": {"requests": 0}}) as api:
        assert is_over(await api.post("/v1/conversations", json={}))
    async with open_limited_api(tenant={"requests": 0}, overrides={"default": {"requests": None}}) as api:
        assert (await api.post("/v1/conversations", json={})).status_code == 200


async def test_the_limit_per_second_counts_requests_and_bytes(
    open_limited_api: Api,
) -> None:
    async with open_limited_api(subject={"requests_a_second": 2}) as api:
        answers = await asyncio.gather(*(api.post("/v1/conversations", json={}) for _ in range(30)))
        refused = [answer for answer in answers if is_over(answer)]
        assert 10 <= len(refused) <= 28
        assert refused[0].headers["ratelimit-policy"] == '"subject-requests_a_second";q=2;w=1'
        assert refused[0].headers["retry-after"] == "1"

    # A body of 1 MB counts as 16 requests. The instructions in the body are too long.
    large = b'{"instructions": "' + b"x" * 1_000_000 + b'"}'

    async def in_parts() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    for content in (lambda: large, in_parts):
        async with open_limited_api(subject={"requests_a_second": 10}) as api:
            answers = [await api.post("/v1/conversations", content=content()) for _ in range(4)]
            assert (answers[0].status_code, answers[-1].status_code) == (400, 429)
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 7


async def test_the_official_sdk_waits_after_a_429_and_tries_again(
    limited_settings: Callable[..., Settings],
) -> None:
    settings = limited_settings(tenant={"requests": 2})
    async with served_api(settings) as api, httpx2.AsyncClient(timeout=30) as transport:
        sdk = AsyncOpenAI(base_url=f"{api.base_url}/v1", api_key="any", max_retries=1, http_client=transport)
        for _ in range(2):
            await sdk.conversations.create()
        async with Redis.from_url(settings.redis_url) as client:
            seconds = int((await client.time())[0])
            [key] = [key async for key in client.scan_iter("limits:*")]
            await client.delete(key)
            await client.hset(key, str(seconds - 58), "2")  # these two requests stop counting in 2 or 3 s
        await asyncio.sleep(0.6)  # the process asks Redis again
        started = time.monotonic()
        assert (await sdk.conversations.create()).id
        assert 1 < time.monotonic() - started < 6

        strict = sdk.with_options(max_retries=0)
        with pytest.raises(openai.RateLimitError) as raised:
            await asyncio.gather(*(strict.conversations.create() for _ in range(3)))
        assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "requests")


async def test_a_request_for_a_reply_is_allowed_while_tokens_are_left(
    open_limited_api: Api, provider: ScriptedProvider
) -> None:
    provider.script = usage_of(60)
    async with open_limited_api(subject={"tokens": 100}) as api:
        await create_response(api, "one")
        second = await post_response(api, "two")  # 40 tokens are left, the reply takes 60
        assert second.status_code == 200
        refused = await post_response(api, "three")

        assert is_over(refused, "tokens")
        assert "tokens per min (TPM): Limit 100" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert (await api.post("/v1/conversations", json={})).status_code == 200
        assert is_over(await api.post("/v1/responses/compact", json={"model": "scripted", "input": "x"}), "tokens")
        assert len(provider.requests) == 2


async def test_the_tokens_of_a_stopped_reply_count_for_the_limit(
    open_limited_api: Api, provider: ScriptedProvider
) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.begin_stream()
        while True:
            exchange.text_chunk("word " * 50)
            time.sleep(0.01)

    provider.script = endless
    async with open_limited_api(subject={"tokens": 100}) as api:
        reply = await create_response(api, "talk", background=True)
        await asyncio.sleep(0.3)
        assert (await api.post(f"/v1/responses/{reply['id']}/cancel")).status_code == 200

        assert is_over(await post_response(api, "again"), "tokens")


async def test_the_number_of_replies_that_run_at_once_is_limited(
    open_limited_api: Api, provider: ScriptedProvider
) -> None:
    provider.script = waits = _Paused()
    async with open_limited_api(tenant={"replies": 3}, subject={"background": 1}) as api:
        background = await create_response(api, "one", background=True)
        refused = await post_response(api, "two", background=True)
        assert is_over(refused)
        assert "this user on background replies at once: Limit 1" in refused.json()["error"]["message"]
        assert refused.headers["ratelimit-policy"] == '"subject-background";q=1;qu="concurrent-requests"'
        assert refused.headers["ratelimit"] == '"subject-background";r=0;t=1'

        others = [asyncio.create_task(post_response(api, text, store=text == "three")) for text in ("three", "four")]
        await asyncio.to_thread(waits.until_running, 3)
        refused = await post_response(api, "five")
        assert is_over(refused)
        assert "this tenant on replies at once: Limit 3" in refused.json()["error"]["message"]
        waits.end()
        assert [answer.status_code for answer in await asyncio.gather(*others)] == [200, 200]
        async with asyncio.timeout(10):
            while is_over(await post_response(api, "six", background=True)):  # noqa: ASYNC110 - a reply must end
                await asyncio.sleep(0.02)
        assert background["status"] == "queued"


async def test_a_request_for_an_unknown_model_does_not_count_as_a_running_reply(
    open_limited_api: Api,
) -> None:
    async with open_limited_api(tenant={"replies": 1}) as api:
        for _ in range(3):
            assert error_of(await post_response(api, "hi", model="unknown"))[1] == "model_not_found"
        await create_response(api, "hi")


async def test_a_socket_counts_as_a_follower_and_each_message_as_a_request(
    limited_settings: Callable[..., Settings], provider: ScriptedProvider
) -> None:
    provider.script = usage_of(10)
    limits = {"followers": 1, "requests": 5, "tokens": 15}
    async with served_api(limited_settings(subject=limits)) as api, api.socket() as client:
        assert (await create(client, "one"))[-1]["type"] == "response.completed"
        second = await api.http.get(
            "/v1/responses", headers={"Connection": "Upgrade", "Upgrade": "websocket", **HANDSHAKE}
        )
        assert is_over(second)
        assert second.headers["ratelimit"].startswith('"subject-requests";r=2')

        assert (await create(client, "two"))[-1]["type"] == "response.completed"
        [error] = await create(client, "three")
        assert socket_error(error) == (429, "rate_limit_exceeded", None)
        assert error["error"]["type"] == "tokens"
        assert int(error["error"]["headers"]["retry-after"]) > 0
        assert error["error"]["headers"]["x-ratelimit-limit-tokens"] == "15"
        [error] = await create(client, "four")
        assert error["error"]["type"] == "requests"
        assert error["error"]["headers"]["ratelimit"].startswith('"subject-requests";r=0')


HANDSHAKE = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


async def test_the_quota_of_a_month_survives_restarts_and_the_loss_of_redis(
    open_limited_api: Api, provider: ScriptedProvider, settings: Settings
) -> None:
    provider.script = usage_of(70)
    async with open_limited_api() as api:  # tokens are counted without a quota too
        await create_response(api, "one", store=False)
    async with Redis.from_url(settings.redis_url) as client:
        await client.flushall()
    async with open_limited_api(tenant={"tokens_a_month": 100}) as api:
        await create_response(api, "two")
        refused = await post_response(api, "three")

        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
        assert "You exceeded the quota of this tenant: 100 tokens" in error["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert abs(int(refused.headers["retry-after"]) - seconds_left_of_month()) < 60
        assert (await api.post("/v1/conversations", json={})).status_code == 200
    with psycopg.connect(settings.postgres_url) as connection:
        rows = connection.execute("SELECT tenant_id, holder, name, tokens FROM token_usage ORDER BY holder").fetchall()
    assert rows == [("default", "subject", "anonymous", 140), ("default", "tenant", "", 140)]


async def test_the_quota_counts_summaries_and_the_usage_of_another_app(
    limited_settings: Callable[..., Settings], provider: ScriptedProvider
) -> None:
    provider.script = usage_of(70)
    settings = limited_settings(subject={"tokens_a_month": 100})
    async with open_api(settings) as one, open_api(settings) as other:
        await create_response(other, "known to the other process from now on")
        summary = await one.post("/v1/responses/compact", json={"model": "scripted", "input": "x " * 100})
        assert summary.status_code == 200, summary.text
        async with asyncio.timeout(10):
            # The quota is checked before the model's name.
            while (answer := await post_response(other, "x", model="unknown")).status_code == 400:  # noqa: ASYNC110 - it reads the table
                await asyncio.sleep(0.1)
        assert answer.json()["error"]["code"] == "insufficient_quota"


async def test_readiness_says_whether_the_limits_are_shared_and_metrics_count_refused_requests(
    limited_settings: Callable[..., Settings],
) -> None:
    settings = limited_settings(tenant={"requests": 1})
    async with served_api(settings) as api:
        await api.http.post("/v1/conversations", json={})
        await api.http.post("/v1/conversations", json={})
        assert (await api.http.get("/health/ready")).json()["checks"]["limits"] == "ok"
        samples = _samples(api.metrics.render()[0].decode())
        assert samples["rate_limited_total", "requests"] == 1
        assert samples["rate_limited_total", "followers"] == 0
        assert samples["limits_shared", ""] == 1

    async with open_api(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as api:
        statuses = [(await api.post("/v1/conversations", json={})).status_code for _ in range(3)]
        assert statuses == [200, 429, 429]  # without Redis, the process counts by itself
        async with asyncio.timeout(10):
            while (ready := await api.get("/health/ready")).status_code != 200:  # noqa: ASYNC110 - it has just started
                await asyncio.sleep(0.05)
        assert (ready.json()["status"], ready.json()["checks"]["limits"]) == ("degraded", "failed")


def _samples(text: str) -> Mapping[tuple[str, str], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (sample.name.removeprefix("conversation_store_"), sample.labels.get("limit", "")): sample.value
        for sample in samples
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12ms"), (1.5, "1.5s"), (59.25, "59.25s"), (60, "1m0s"), (359.2, "6m0s"), (3_661, "1h1m1s")],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class _Paused:
    def __init__(self) -> None:
        self._running = 0
        self._ended = False

    def __call__(self, exchange: Exchange) -> None:
        self._running += 1
        while not self._ended:
            time.sleep(0.01)
        exchange.stream_text("Done.")

    def until_running(self, number: int) -> None:
        while self._running < number:
            time.sleep(0.01)

    def end(self) -> None:
        self._ended = True
