"""A provider that is down is not asked again and again: against one that is really down, and comes back."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from domain.errors import ModelFailed
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.provider.breaker import FAILURES, OPEN_SECONDS, WINDOW_SECONDS, Breaker
from replies.provider.provider import ModelProvider
from tests.provider import Provider
from tests.replies.provider.conftest import BODY, pieces_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states() -> list[str]:
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[str]) -> Breaker:
    return Breaker(states.append, clock)


def fails(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.enter().failed()


def test_it_opens_after_some_failures_in_a_row(breaker: Breaker, states: list[str]) -> None:
    fails(breaker, FAILURES - 1)
    breaker.enter().answered()
    fails(breaker, FAILURES - 1)
    assert states == []
    fails(breaker)
    assert states == ["open"]
    with pytest.raises(ModelFailed) as refused:
        breaker.enter()
    assert (refused.value.code, refused.value.retry_after) == ("model_unavailable", OPEN_SECONDS)


def test_failures_far_apart_do_not_add_up(breaker: Breaker, clock: Clock, states: list[str]) -> None:
    for _ in range(3 * FAILURES):
        fails(breaker)
        clock.now += WINDOW_SECONDS + 1
    assert states == []


def test_one_at_a_time_is_let_through_and_its_answer_closes_it(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, FAILURES)
    clock.now += OPEN_SECONDS
    probe = breaker.enter()
    with pytest.raises(ModelFailed):
        breaker.enter()
    probe.answered()
    probe.failed()  # what comes later of the same request says nothing new
    assert breaker.state == "closed"
    breaker.enter()


def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, FAILURES)
    clock.now += OPEN_SECONDS
    fails(breaker)
    assert breaker.state == "open"
    clock.now += OPEN_SECONDS - 1
    with pytest.raises(ModelFailed):
        breaker.enter()


def test_a_probe_that_is_given_up_lets_the_next_through(breaker: Breaker, clock: Clock) -> None:
    fails(breaker, FAILURES)
    clock.now += OPEN_SECONDS
    breaker.enter().gave_up()
    breaker.enter().answered()
    assert breaker.state == "closed"


@pytest.fixture
def down() -> Iterator[str]:
    """The URL of a port that nothing listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


@pytest.fixture
async def away(down: str) -> AsyncIterator[tuple[ModelProvider, Metrics]]:
    metrics = Metrics()
    model = ModelProvider(Settings(openai_base_url=down), metrics)
    yield model, metrics
    await model.close()


async def code_of(model: ModelProvider) -> str:
    with pytest.raises(ModelFailed) as failed:
        await pieces_of(model)
    return failed.value.code


async def test_a_provider_that_is_down_is_left_alone(away: tuple[ModelProvider, Metrics]) -> None:
    model, metrics = away
    codes = await asyncio.gather(*(code_of(model) for _ in range(FAILURES)))
    assert set(codes) == {"model_error"}
    async with asyncio.timeout(0.2):  # no retries, no time-outs
        assert await code_of(model) == "model_unavailable"
    assert metrics.registry.get_sample_value("conversation_store_model_unavailable") == 1


@pytest.mark.parametrize("status", [400, 404, 429])
async def test_a_provider_that_refuses_is_there(chat: ModelProvider, provider: Provider, status: int) -> None:
    provider.script = lambda exchange: exchange.json(status, {}, x_should_retry="false")
    for _ in range(FAILURES + 1):
        assert await code_of(chat) != "model_unavailable"


async def test_a_provider_that_answers_5xx_is_left_alone_until_it_answers(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replies.provider.breaker.OPEN_SECONDS", 0.3)
    metrics = Metrics()
    model = ModelProvider(Settings(openai_base_url=provider.url), metrics)
    working, provider.script = provider.script, lambda exchange: exchange.json(500, {}, x_should_retry="false")
    for _ in range(FAILURES):
        assert await code_of(model) == "model_error"
    assert await code_of(model) == "model_unavailable"
    assert len(provider.requests) == FAILURES

    provider.script = lambda _: time.sleep(0.2)
    await asyncio.sleep(0.3)
    probe = asyncio.create_task(pieces_of(model))
    await asyncio.sleep(0.05)
    assert await code_of(model) == "model_unavailable"  # one at a time
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    provider.script = working
    assert len(await pieces_of(model)) == 6  # the probe that was given up let it through
    assert metrics.registry.get_sample_value("conversation_store_model_unavailable") == 0
    await model.close()


async def test_a_reader_that_goes_before_the_answer_is_no_failure(chat: ModelProvider, provider: Provider) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    working = provider.script

    def waits(exchange: object) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(5)

    provider.script = waits
    for _ in range(FAILURES + 1):
        reader = asyncio.create_task(pieces_of(chat))
        await asyncio.sleep(0.02)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    released.set()
    provider.script = working
    assert len([piece async for piece in chat.stream(BODY)]) == 6
