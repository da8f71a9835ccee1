"""Tokens in a calendar month (UTC), in the table `token_usage`. Tokens are counted even without a quota, for later
quotas.

Tokens are written at once. A write that was not confirmed is repeated, and may count twice.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
import structlog
from msgspec import Struct

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.rate_limits import MAX_LIMIT, Holder
from infrastructure.stores.postgres import Pool

log = structlog.get_logger(__name__)

REFRESH_SECONDS: Final = 2.0
"""Counts of other processes may be this old."""

WANTED_SECONDS: Final = 30.0
"""A count is read for this long after a request has asked for it."""

CLOSE_SECONDS: Final = 5.0

WAIT_SECONDS: Final = 0.25
"""A request waits at most this long for a count that this process has not read yet."""

_THIS_MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC')::date"

_ADD: LiteralString = f"""
    INSERT INTO token_usage AS kept (tenant_id, month, holder, name, tokens)
    SELECT t, {_THIS_MONTH}, h, n, a FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS added (t, h, n, a)
    ON CONFLICT (tenant_id, month, holder, name) DO UPDATE SET tokens = kept.tokens + excluded.tokens
    RETURNING tenant_id, holder, name, tokens
"""  # noqa: S608 - no text from outside

_READ: LiteralString = f"""
    SELECT t, h, n, coalesce(kept.tokens, 0) FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted (t, h, n)
    LEFT JOIN token_usage AS kept
        ON kept.tenant_id = t AND kept.month = {_THIS_MONTH} AND kept.holder = h AND kept.name = n
"""  # noqa: S608 - no text from outside


class MonthKey(Struct, frozen=True, order=True):
    """Whose tokens are counted. `name`: the subject, or the id of the key; empty for the tenant."""

    tenant: str
    holder: Holder
    name: str


class MonthlyTokens:
    """The counts as this process knows them. Without `open` nothing is counted."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._pending = Counter[MonthKey]()
        """Not written yet."""
        self._sent = Counter[MonthKey]()
        """Being written."""
        self._written: dict[MonthKey, int] = {}
        """As last read or written."""
        self._wanted: dict[MonthKey, float] = {}
        """When a request last asked for each count."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def open(self, pool: Pool) -> None:
        self._pool = pool
        self._task = asyncio.create_task(self._run())

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Writes the counts that wait, if Postgres answers within `seconds`."""
        if self._task is None:
            return
        self._is_closing = True
        self._wake.set()
        # Not cancelled at once, because nobody would know whether an interrupted write was counted.
        await asyncio.wait({self._task}, timeout=seconds)
        self._task.cancel()
        if lost := self._pending | self._sent:
            log.warning("tokens_not_counted", counts=len(lost))

    def add(self, keys: Collection[MonthKey], tokens: int) -> None:
        if self._pool is None or tokens <= 0:
            return
        for key in keys:
            self._pending[key] += min(tokens, MAX_LIMIT)
        self._wake.set()

    async def used(self, key: MonthKey) -> int:
        """Counts of other processes may be old, or missing if Postgres has not answered yet."""
        self._wanted[key] = time.monotonic()
        if key not in self._written and self._pool is not None:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._read([key])
            except (psycopg.Error, TimeoutError) as error:
                log.warning("quota_not_read", error_type=type(error).__name__)
        return self._written.get(key, 0) + self._sent[key] + self._pending[key]

    async def _run(self) -> None:
        while not self._is_closing or self._pending:
            raise_if_cancelled()
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._write()
                if not self._is_closing:
                    await self._refresh()
            except Exception as error:  # noqa: BLE001 - if this task ended, no quota would be enforced any more
                log.warning("tokens_not_counted_yet", error_type=type(error).__name__)
                await asyncio.sleep(REFRESH_SECONDS)

    async def _write(self) -> None:
        if not self._pending:
            return
        self._sent, self._pending = self._pending, Counter()
        try:
            # Sorted, so that two processes do not deadlock.
            keys = sorted(self._sent)
            self._written |= await self._execute(_ADD, keys, [self._sent[key] for key in keys])
        except BaseException:
            self._pending.update(self._sent)
            raise
        finally:
            self._sent = Counter()

    async def _refresh(self) -> None:
        now = time.monotonic()
        self._wanted = {key: at for key, at in self._wanted.items() if now - at < WANTED_SECONDS}
        self._written = {key: tokens for key, tokens in self._written.items() if key in self._wanted}
        if self._wanted:
            await self._read(list(self._wanted))

    async def _read(self, keys: Sequence[MonthKey]) -> None:
        self._written |= await self._execute(_READ, keys)

    async def _execute(self, statement: LiteralString, keys: Sequence[MonthKey], *more: Any) -> dict[MonthKey, int]:
        assert self._pool is not None
        names = ([key.tenant for key in keys], [key.holder for key in keys], [key.name for key in keys])
        async with self._pool.connection() as connection:
            rows: list[Any] = await (await connection.execute(statement, (*names, *more))).fetchall()
        return {MonthKey(tenant, holder, name): tokens for tenant, holder, name, tokens in rows}


def seconds_left_of_month() -> float:
    """By this process's clock."""
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return ((first + timedelta(days=32)).replace(day=1) - now).total_seconds()
