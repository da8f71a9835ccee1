"""What one request may use. A message on a WebSocket counts as a request."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from infrastructure.access.principal import Principal
from infrastructure.limits.answer_headers import Headers, headers_of
from infrastructure.limits.concurrent import ConcurrentCount
from infrastructure.limits.limiter import Counts, Limiter
from infrastructure.limits.refusals import OverLimit

if TYPE_CHECKING:
    import asyncio


class Allowance:
    """Counts what one request uses, and refuses what is over a limit. Call `end` when the request has ended.

    `headers` tell the client its limits, as of the last call of `request` or the last refusal.
    """

    def __init__(self, limiter: Limiter, principal: Principal) -> None:
        self._limiter = limiter
        self._account = limiter.account(principal)
        self._taken: list[ConcurrentCount] = []
        self.headers: Headers = []

    @property
    def counts_bytes(self) -> bool:
        """If so, `request` needs the size of the body, and `bytes_passed` must be called."""
        return bool(self._account.bursts)

    async def request(self, size: int = 0) -> None:
        """Counts the request. `size`: bytes of the body. Raises OverLimit."""
        if not self._limiter.is_on:
            return
        try:
            self._limiter.require_burst(self._account)
            await self._limiter.require("requests", self._account.requests)
        except OverLimit as refusal:
            self._describe(refusal)
            raise
        now = time.monotonic()
        for _, burst in self._account.bursts:
            burst.take(now, size)
        for _, count in self._account.requests:
            if count.take(now):
                self._limiter.want(count)
        self._describe()

    def bytes_passed(self, size: int) -> None:
        """Counts bytes of the answer, or of a body without a `Content-Length`."""
        now = time.monotonic()
        for _, burst in self._account.bursts:
            burst.take_more(now, size)

    async def reply(self, *, background: bool = False) -> None:
        """Call it before asking a model. Counts until `end`, or until the task of `end_with` ends. Raises OverLimit."""
        account = self._account
        try:
            await self._limiter.require_quota(account)
            await self._limiter.require("tokens", account.tokens)
            await self._take("replies", account.replies)
            if background:
                await self._take("background", account.background)
        except OverLimit as refusal:
            self._describe(refusal)
            raise

    async def follow(self) -> None:
        """Call it before answering with a stream or accepting a WebSocket. Raises OverLimit."""
        try:
            await self._take("followers", self._account.followers)
        except OverLimit as refusal:
            self._describe(refusal)
            raise

    def spend(self, tokens: int) -> None:
        """Counts the input and output tokens of a model call. May be called after the request has ended."""
        now = time.monotonic()
        for _, count in self._account.tokens:
            count.spend(now, tokens)
            self._limiter.want(count)
        self._limiter.months.add(self._account.months, tokens)

    def end_with(self, task: "asyncio.Task[None]") -> None:
        """What the request has taken is given back when the task ends, not when the request ends."""
        taken, self._taken = self._taken, []
        task.add_done_callback(lambda _: self._give_back(taken))

    def end(self) -> None:
        taken, self._taken = self._taken, []
        self._give_back(taken)

    async def _take(self, name: Literal["replies", "background", "followers"], counts: Counts[ConcurrentCount]) -> None:
        await self._limiter.require(name, counts)
        for _, count in counts:
            count.take()
            self._taken.append(count)

    def _give_back(self, counts: Sequence[ConcurrentCount]) -> None:
        for count in counts:
            count.give_back()
            self._limiter.want(count)

    def _describe(self, refusal: OverLimit | None = None) -> None:
        now, is_shared = time.monotonic(), self._limiter.is_shared
        self.headers[:] = headers_of(self._account, now, is_shared=is_shared, refusal=refusal)
