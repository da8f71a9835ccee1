"""Counts what each tenant, subject and API key uses in one process, and refuses what is over a limit."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

from msgspec import Struct

from infrastructure.access.principal import Principal
from infrastructure.ids import mint_uuid
from infrastructure.limits.bursts import BurstCount
from infrastructure.limits.concurrent import ConcurrentCount
from infrastructure.limits.month import MonthKey, MonthlyTokens, seconds_left_of_month
from infrastructure.limits.refusals import LimitName, OverLimit
from infrastructure.limits.requests import RequestCount
from infrastructure.limits.shared_counts import TICK_SECONDS, SharedCounts
from infrastructure.limits.tokens import TokenCount
from infrastructure.observability.metrics import Metrics
from infrastructure.rate_limits import HOLDERS, Holder, RateLimits
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import make_pool

FORGET_SECONDS: Final = 60.0

AnyCount = RequestCount | TokenCount | ConcurrentCount
C = TypeVar("C", bound=AnyCount)
Counts = Sequence[tuple[Holder, C]]


class Account(Struct, frozen=True):
    """The counts that one principal's requests change."""

    months: Sequence[MonthKey]
    """Tokens are counted with or without a quota."""
    requests: Counts[RequestCount] = ()
    bursts: Sequence[tuple[Holder, BurstCount]] = ()
    tokens: Counts[TokenCount] = ()
    replies: Counts[ConcurrentCount] = ()
    background: Counts[ConcurrentCount] = ()
    followers: Counts[ConcurrentCount] = ()
    quotas: Sequence[tuple[Holder, MonthKey, int]] = ()

    @property
    def counts(self) -> list[AnyCount]:
        groups = (self.requests, self.tokens, self.replies, self.background, self.followers)
        return [count for group in groups for _, count in group]

    def is_idle(self, now: float) -> bool:
        return all(count.is_idle(now) for count in (*self.counts, *(burst for _, burst in self.bursts)))


class Limiter:
    """Until the limiter is `opened`, the process counts alone.

    `counts_tokens`: whether to count the tokens of a month. Must be set in a process that asks models.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, counts_tokens: bool = False) -> None:
        self._settings = settings
        self._rules = settings.rate_limits
        self._metrics = metrics
        self._counts_tokens = counts_tokens
        self._shared = SharedCounts(mint_uuid())
        self.months = MonthlyTokens()
        self._accounts: dict[tuple[str, str, str | None], Account] = {}
        self._counts: dict[str, AnyCount] = {}
        self._bursts: dict[str, BurstCount] = {}
        self._ticking: asyncio.Task[None] | None = None
        self.is_on = self._rules != RateLimits()

    @property
    def remembered(self) -> int:
        """How many accounts are in memory."""
        return len(self._accounts)

    @property
    def is_shared(self) -> bool:
        return self._shared.is_available

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Postgres and Redis need not be up."""
        async with AsyncExitStack() as stack:
            if self._counts_tokens:
                pool = make_pool(self._settings.postgres_url, max_size=1, read_only=False)
                self.months.open(await stack.enter_async_context(pool))
            if self.is_on:
                await self._shared.open(await stack.enter_async_context(redis.connect(self._settings)))
                self._ticking = asyncio.create_task(self._tick())
            try:
                yield
            finally:
                if self._ticking is not None:
                    self._ticking.cancel()
                await self._shared.close(self._counts.values())
                await self.months.close()

    def account(self, principal: Principal) -> Account:
        if not self.is_on:
            return Account([month for _, month in _months(principal)])
        name = (principal.tenant, principal.subject, principal.key_id)
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._new_account(principal)
        return account

    async def require(self, name: LimitName, counts: Counts[C]) -> None:
        """Raises OverLimit if one of `counts` is used up. Take what you need before you await anything."""
        used_up = await self._shared.used_up([count for _, count in counts])
        if used_up:
            now, is_shared = time.monotonic(), self.is_shared
            last = max(used_up, key=lambda count: count.free_in(now, is_shared=is_shared))
            holder = next(holder for holder, count in counts if count is last)
            raise self._refusal(name, holder, last.limit, last.free_in(now, is_shared=is_shared))

    def require_burst(self, account: Account) -> None:
        """Raises OverLimit."""
        now = time.monotonic()
        used_up = [(holder, burst) for holder, burst in account.bursts if not burst.has(now)]
        if used_up:
            holder, last = max(used_up, key=lambda pair: pair[1].free_in(now))
            raise self._refusal("requests_a_second", holder, last.limit, last.free_in(now))

    async def require_quota(self, account: Account) -> None:
        """Raises OverLimit."""
        for holder, month, quota in account.quotas:
            if await self.months.used(month) >= quota:
                raise self._refusal("tokens_a_month", holder, quota, seconds_left_of_month())

    def want(self, count: AnyCount) -> None:
        """The next question to Redis includes this count. Does not wait."""
        if self._ticking is not None:
            self._shared.want(count)

    def _refusal(self, name: LimitName, holder: Holder, limit: int, retry_after: float) -> OverLimit:
        self._metrics.rate_limited.labels(name).inc()
        return OverLimit(name, holder, limit, retry_after)

    def _new_account(self, principal: Principal) -> Account:
        months = _months(principal)
        limits = self._rules.of(principal.tenant)

        def limited(limit_name: LimitName) -> Iterator[tuple[Holder, MonthKey, int]]:
            for holder, month in months:
                limit: int | None = getattr(limits[holder], limit_name)
                if limit is not None:
                    yield holder, month, limit

        def counts(limit_name: LimitName, make: type[C]) -> Counts[C]:
            found: list[tuple[Holder, C]] = []
            for holder, month, limit in limited(limit_name):
                key = _key(month, limit_name)
                count = self._counts.get(key)
                if not isinstance(count, make):
                    count = self._counts[key] = make(key, limit)
                found.append((holder, count))
            return found

        return Account(
            requests=counts("requests", RequestCount),
            bursts=[
                (holder, self._bursts.setdefault(_key(month, "requests_a_second"), BurstCount(limit)))
                for holder, month, limit in limited("requests_a_second")
            ],
            tokens=counts("tokens", TokenCount),
            replies=counts("replies", ConcurrentCount),
            background=counts("background", ConcurrentCount),
            followers=counts("followers", ConcurrentCount),
            quotas=list(limited("tokens_a_month")),
            months=[month for _, month in months],
        )

    async def _tick(self) -> None:
        forget_at = time.monotonic() + FORGET_SECONDS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._metrics.limits_shared.set(self.is_shared)
            for count in self._counts.values():
                if count.tick(now):
                    self._shared.want(count)
            if now > forget_at:
                forget_at = now + FORGET_SECONDS
                self.forget_idle(now)

    def forget_idle(self, now: float) -> None:
        """`now`: by `time.monotonic`."""
        self._accounts = {name: account for name, account in self._accounts.items() if not account.is_idle(now)}
        bursts = {id(burst) for account in self._accounts.values() for _, burst in account.bursts}
        self._bursts = {key: burst for key, burst in self._bursts.items() if id(burst) in bursts}
        needed = {count.key for account in self._accounts.values() for count in account.counts}
        self._counts = {key: count for key, count in self._counts.items() if key in needed or not count.is_idle(now)}


def _months(principal: Principal) -> list[tuple[Holder, MonthKey]]:
    names: dict[Holder, str | None] = {"tenant": "", "subject": principal.subject, "key": principal.key_id}
    return [
        (holder, MonthKey(principal.tenant, holder, name)) for holder in HOLDERS if (name := names[holder]) is not None
    ]


def _key(month: MonthKey, limit_name: LimitName) -> str:
    """The key of a count, here and in Redis. The name is hashed, because a subject may have any characters."""
    named = f":{hashlib.sha256(month.name.encode()).hexdigest()[:32]}" if month.name else ""
    return f"limits:{month.tenant}:{limit_name}:{month.holder}{named}"
