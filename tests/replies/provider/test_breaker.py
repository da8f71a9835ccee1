"""Tests circuit breakers alone, and in a client whose provider fails and recovers."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from domain.errors import ModelFailed
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.provider.breaker import (
    FAILURE_WINDOW_SECONDS,
    MAX_FAILURES,
    MAX_MODELS,
    OPEN_SECONDS,
    PROBE_SECONDS,
    CircuitBreaker,
    CircuitBreakers,
)
from replies.provider.provider import ModelProvider
from tests.replies.provider.conftest import BODY, Clock, failure_of, parts_of
from tests.scripted_provider import Exchange, Script, ScriptedProvider
from tests.servers import wait_until_async


@pytest.fixture
def changes() -> list[bool]:
    """The changes that the breaker has reported, in order: True when it opened, False when it closed."""
    return []


@pytest.fixture
def breaker(clock: Clock, changes: list[bool]) -> CircuitBreaker:
    return CircuitBreaker(changes.append, clock)


def answers(status: int) -> Script:
    return lambda exchange: exchange.json(status, {}, x_should_retry="false")


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.begin_attempt().failed()


def test_the_breaker_opens_after_max_failures_in_a_row(breaker: CircuitBreaker, changes: list[bool]) -> None:
    fail(breaker, MAX_FAILURES - 1)
    breaker.begin_attempt().answered()
    fail(breaker, MAX_FAILURES - 1)
    assert changes == []
    fail(breaker)
    assert changes == [True]
    with pytest.raises(ModelFailed) as refused:
        breaker.begin_attempt()
    assert (refused.value.code, refused.value.retry_after) == ("model_unavailable", OPEN_SECONDS)


def test_failures_far_apart_do_not_open_the_breaker(breaker: CircuitBreaker, clock: Clock, changes: list[bool]) -> None:
    for _ in range(3 * MAX_FAILURES):
        fail(breaker)
        clock.now += FAILURE_WINDOW_SECONDS + 1
    assert changes == []


def test_an_answered_probe_closes_the_breaker(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    probe = breaker.begin_attempt()
    with pytest.raises(ModelFailed):
        breaker.begin_attempt()
    probe.answered()
    probe.failed()  # only the first result of a request counts
    assert not breaker.is_open
    breaker.begin_attempt()


def test_the_breaker_stays_open_if_a_probe_fails(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    fail(breaker)
    assert breaker.is_open
    clock.now += OPEN_SECONDS - 1
    with pytest.raises(ModelFailed):
        breaker.begin_attempt()


def test_after_an_abandoned_probe_the_next_request_is_let_through(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    breaker.begin_attempt().abandoned()
    breaker.begin_attempt().answered()
    assert not breaker.is_open


def test_a_probe_without_a_result_blocks_the_next_probe_only_for_a_few_seconds(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    first = breaker.begin_attempt()
    clock.now += PROBE_SECONDS
    second = breaker.begin_attempt()
    with pytest.raises(ModelFailed) as refused:
        breaker.begin_attempt()
    assert refused.value.retry_after == PROBE_SECONDS
    second.answered()
    first.abandoned()
    assert not breaker.is_open


def test_old_requests_that_fail_do_not_delay_the_next_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    sent_before = [breaker.begin_attempt() for _ in range(50)]
    fail(breaker, MAX_FAILURES)
    clock.now += OPEN_SECONDS
    hanging_probe = breaker.begin_attempt()
    clock.now += PROBE_SECONDS
    newest_probe = breaker.begin_attempt()
    for attempt in (*sent_before, hanging_probe):
        attempt.failed()
    clock.now += PROBE_SECONDS
    breaker.begin_attempt().abandoned()
    newest_probe.answered()
    hanging_probe.failed()
    assert not breaker.is_open


def test_each_model_has_its_own_breaker(clock: Clock) -> None:
    counts: list[int] = []
    breakers = CircuitBreakers(counts.append, clock)
    for model in ("down", "down too"):
        for _ in range(MAX_FAILURES):
            breakers.begin_attempt(model).failed()
        with pytest.raises(ModelFailed):
            breakers.begin_attempt(model)
    breakers.begin_attempt("up").answered()
    clock.now += OPEN_SECONDS
    breakers.begin_attempt("down").answered()
    assert counts == [1, 2, 1]


def test_the_number_of_breakers_is_limited_even_for_invented_models(clock: Clock) -> None:
    counts: list[int] = []
    breakers = CircuitBreakers(counts.append, clock)
    for number in range(MAX_MODELS + 50):
        for _ in range(MAX_FAILURES):
            breakers.begin_attempt(f"model {number}").failed()
    assert len(breakers) == MAX_MODELS
    assert max(counts) == counts[-1] == MAX_MODELS


@pytest.fixture
def closed_port_url() -> Iterator[str]:
    """The URL of a port that nothing listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@pytest.fixture
async def unreachable(closed_port_url: str) -> AsyncIterator[tuple[ModelProvider, Metrics]]:
    metrics = Metrics()
    client = ModelProvider(Settings(openai_base_url=closed_port_url), metrics)
    yield client, metrics
    await client.close()


async def test_after_max_failures_a_request_to_an_unreachable_provider_fails_at_once(
    unreachable: tuple[ModelProvider, Metrics],
) -> None:
    client, metrics = unreachable
    failures = await asyncio.gather(*(failure_of(client) for _ in range(MAX_FAILURES)))
    assert {failure.code for failure in failures} == {"model_error"}
    async with asyncio.timeout(0.2):  # the request fails without retries, and without waiting for a timeout
        assert (await failure_of(client)).code == "model_unavailable"
    assert metrics.registry.get_sample_value("conversation_store_model_unavailable") == 1


async def test_error_statuses_other_than_502_503_and_504_do_not_open_the_breaker(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    for status in (400, 404, 413, 422, 429, 500, 501, 529):
        provider.script = answers(status)
        await asyncio.gather(*(failure_of(chat) for _ in range(MAX_FAILURES)))
        assert (await failure_of(chat)).code != "model_unavailable"


async def test_an_answer_with_status_500_closes_the_breaker(provider: ScriptedProvider, clock: Clock) -> None:
    client = ModelProvider(Settings(openai_base_url=provider.url), clock=clock)
    for status, codes in ((502, {"model_error"}), (503, {"model_unavailable"})):
        provider.script = answers(status)
        assert {(await failure_of(client)).code for _ in range(MAX_FAILURES)} == codes
    provider.script = answers(500)
    clock.now += OPEN_SECONDS
    assert {(await failure_of(client)).code for _ in range(MAX_FAILURES + 1)} == {"model_error"}
    await client.close()


async def test_answers_with_status_503_open_the_breaker_until_the_provider_answers_again(
    provider: ScriptedProvider, clock: Clock
) -> None:
    metrics = Metrics()
    client = ModelProvider(Settings(openai_base_url=provider.url), metrics, clock=clock)
    working, provider.script = provider.script, answers(503)
    for _ in range(MAX_FAILURES):
        assert (await failure_of(client)).code == "model_error"
    assert (await failure_of(client)).code == "model_unavailable"
    assert len(provider.requests) == MAX_FAILURES

    provider.script = lambda _: time.sleep(0.2)
    clock.now += OPEN_SECONDS
    probe = asyncio.create_task(parts_of(client))
    await asyncio.sleep(0.05)
    assert (await failure_of(client)).code == "model_unavailable"  # one probe at a time
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    provider.script = working
    assert len(await parts_of(client)) == 6  # this request is let through, because the probe was abandoned
    assert metrics.registry.get_sample_value("conversation_store_model_unavailable") == 0
    await client.close()


async def test_a_hanging_model_is_blocked_for_a_few_seconds(provider: ScriptedProvider, clock: Clock) -> None:
    client = ModelProvider(Settings(openai_base_url=provider.url), clock=clock)
    working, released = provider.script, threading.Event()
    provider.script = answers(504)
    for _ in range(MAX_FAILURES):
        await failure_of(client)
    clock.now += OPEN_SECONDS

    def hang(_: Exchange) -> None:
        released.wait(10)

    provider.script = hang
    probe = asyncio.create_task(parts_of(client))
    await wait_until_async(lambda: len(provider.requests) > MAX_FAILURES, 5, "the probe to arrive")

    provider.script = working
    assert len([part async for part in client.stream({**BODY, "model": "another"})]) == 6
    assert (await failure_of(client)).code == "model_unavailable"
    clock.now += PROBE_SECONDS
    assert len(await parts_of(client)) == 6
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    released.set()
    await client.close()


async def test_a_model_that_sends_only_empty_deltas_opens_the_breaker(
    provider: ScriptedProvider,
) -> None:
    client = ModelProvider(Settings(openai_base_url=provider.url, model_timeout=0.1))

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        while True:
            exchange.text_chunk("")
            threading.Event().wait(0.02)

    provider.script = script
    failures = await asyncio.gather(*(failure_of(client) for _ in range(MAX_FAILURES)))
    assert {failure.code for failure in failures} == {"model_timeout"}
    assert (await failure_of(client)).code == "model_unavailable"
    await client.close()


async def test_readers_that_disconnect_before_the_answer_do_not_open_the_breaker(
    chat: ModelProvider, provider: ScriptedProvider
) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    working = provider.script

    def wait(exchange: object) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(5)

    provider.script = wait
    for _ in range(MAX_FAILURES + 1):
        reader = asyncio.create_task(parts_of(chat))
        await asyncio.sleep(0.02)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    released.set()
    provider.script = working
    assert len([part async for part in chat.stream(BODY)]) == 6
