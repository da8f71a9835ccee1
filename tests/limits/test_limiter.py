"""The limiter of one process, without Redis."""

import time
from math import ceil

import pytest

from infrastructure.access.principal import SCOPES, Principal
from infrastructure.limits.allowance import Allowance
from infrastructure.limits.bursts import BYTES_OF_A_REQUEST, MAX_DEBT_SECONDS, BurstCount
from infrastructure.limits.limiter import Limiter
from infrastructure.limits.refusals import OverLimit
from infrastructure.observability.metrics import Metrics
from infrastructure.rate_limits import RateLimits
from infrastructure.settings import Settings

EVERY = {"requests": 5, "requests_a_second": 5, "tokens": 5, "replies": 1, "followers": 1}


def limiter(**limits: object) -> Limiter:
    return Limiter(Settings(rate_limits=RateLimits.model_validate(limits)), Metrics())


def principal(subject: str, tenant: str = "acme", key_id: str | None = None) -> Principal:
    return Principal(tenant, subject, SCOPES, key_id)


async def allowed(limits: Limiter, sender: Principal, requests: int = 10) -> int:
    requests_allowed = 0
    for _ in range(requests):
        try:
            await Allowance(limits, sender).request()
        except OverLimit:
            continue
        requests_allowed += 1
    return requests_allowed


async def test_subjects_and_tenants_have_separate_limits() -> None:
    limits = limiter(tenant={"requests": 8}, subject={"requests": 5})

    assert await allowed(limits, principal("ann")) == 5
    assert await allowed(limits, principal("bob")) == 3
    assert await allowed(limits, principal("ann", tenant="other")) == 5


async def test_the_limit_of_a_key_does_not_apply_to_requests_without_a_key() -> None:
    limits = limiter(key={"requests": 2})

    assert await allowed(limits, principal("ann", key_id="key_1")) == 2
    assert await allowed(limits, principal("bob", key_id="key_1")) == 0
    assert await allowed(limits, principal("ann", key_id="key_2")) == 2
    assert await allowed(limits, principal("ann")) == 10


async def test_an_idle_principal_without_an_open_stream_is_forgotten() -> None:
    limits = limiter(tenant=EVERY, subject=EVERY)
    for number in range(5):
        await Allowance(limits, principal(f"user {number}")).request()
    follower = Allowance(limits, principal("follower", tenant="other"))
    await follower.follow()
    now = time.monotonic()
    limits.forget_idle(now)
    assert limits.remembered == 6

    limits.forget_idle(now + 70)
    assert limits.remembered == 1
    with pytest.raises(OverLimit):
        await Allowance(limits, principal("another", tenant="other")).follow()
    follower.end()
    await Allowance(limits, principal("another", tenant="other")).follow()


async def test_without_limits_nobody_is_remembered() -> None:
    limits = limiter()

    assert await allowed(limits, principal("ann"), 100) == 100
    assert limits.remembered == 0


def test_requests_are_refused_for_about_max_debt_seconds_after_an_excess() -> None:
    burst = BurstCount(10)
    for _ in range(10):
        assert burst.has(100.0)
        burst.take(100.0, 0)
    assert not burst.has(100.0)
    assert burst.has(100.2)

    burst.take(100.2, 100_000_000)
    assert not burst.has(100.2 + MAX_DEBT_SECONDS)
    assert burst.has(100.2 + MAX_DEBT_SECONDS + burst.free_in(100.2 + MAX_DEBT_SECONDS) + 0.001)
    assert burst.is_idle(100.2 + MAX_DEBT_SECONDS + 1)


@pytest.mark.parametrize("limit", [1, 4, 10])
def test_the_stated_wait_is_the_shortest_in_whole_seconds(limit: int) -> None:
    for half_requests in range(2 * limit, 30 * limit):
        burst = BurstCount(limit)
        burst.take_more(100.0, half_requests * BYTES_OF_A_REQUEST // 2)
        assert not burst.has(100.0)
        seconds = ceil(burst.free_in(100.0))
        assert burst.has(100.0 + seconds)
        assert not burst.has(100.0 + seconds - 1)


async def test_the_stated_wait_is_long_enough_for_all_limits_of_a_second() -> None:
    limits = limiter(tenant={"requests_a_second": 100}, subject={"requests_a_second": 2})
    ann = Allowance(limits, principal("ann"))
    await ann.request(150 * BYTES_OF_A_REQUEST)
    with pytest.raises(OverLimit) as refused:
        await ann.request()
    assert (refused.value.holder, ceil(refused.value.retry_after)) == ("subject", MAX_DEBT_SECONDS)
