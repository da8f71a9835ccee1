"""Limits how many requests do something at the same time: in all, and for one tenant.

A request needs a turn, and gives it back at the end. With a smaller limit for one tenant, no tenant can hold all turns.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct


class _Tenant(Struct, eq=False):
    """`users`: how many requests of the tenant hold a turn or wait for one."""

    turns: asyncio.Semaphore
    users: int = 0


class TenantTurns:
    """At most `total` turns at once, and at most `per_tenant` of them for one tenant.

    The requests of a tenant get turns in the order in which they came.
    """

    def __init__(self, total: int, per_tenant: int) -> None:
        self._turns = asyncio.Semaphore(total)
        self._per_tenant = per_tenant
        self._tenants: dict[str, _Tenant] = {}

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits for a turn, and holds it until the end of the `with` block."""
        own = self._tenants.setdefault(tenant, _Tenant(asyncio.Semaphore(self._per_tenant)))
        own.users += 1
        try:
            async with own.turns, self._turns:
                yield
        finally:
            own.users -= 1
            if not own.users:
                del self._tenants[tenant]
