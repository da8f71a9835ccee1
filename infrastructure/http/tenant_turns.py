"""Limits how many requests do something at the same time, in all and for one tenant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct


class _Tenant(Struct, eq=False):
    """The turns of one tenant. `users`: requests of the tenant that hold a turn or wait for one."""

    turns: asyncio.Semaphore
    users: int = 0


class TenantTurns:
    def __init__(self, total: int, per_tenant: int) -> None:
        self._turns = asyncio.Semaphore(total)
        self._per_tenant = per_tenant
        self._tenants: dict[str, _Tenant] = {}

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        own = self._tenants.setdefault(tenant, _Tenant(asyncio.Semaphore(self._per_tenant)))
        own.users += 1
        try:
            async with own.turns, self._turns:
                yield
        finally:
            own.users -= 1
            if not own.users:
                del self._tenants[tenant]
