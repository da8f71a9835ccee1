"""`TenantTurns` limits the turns at a time, in total and for each tenant."""

import asyncio
from contextlib import AsyncExitStack

from infrastructure.http.tenant_turns import TenantTurns


async def test_a_second_tenant_gets_a_turn_at_once() -> None:
    turns = TenantTurns(total=3, per_tenant=2)
    holding = 0
    stop = asyncio.Event()

    async def hold(tenant: str) -> None:
        nonlocal holding
        async with turns.turn(tenant):
            holding += 1
            await stop.wait()

    tasks = [asyncio.create_task(hold("loud")) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert holding == 2
    async with asyncio.timeout(1), turns.turn("quiet"):
        pass
    stop.set()
    await asyncio.gather(*tasks)
    assert holding == 10


async def test_a_third_tenant_waits_until_turns_are_given_back() -> None:
    turns = TenantTurns(total=3, per_tenant=2)
    async with AsyncExitStack() as stack:
        for tenant in ("a", "a", "b"):
            await stack.enter_async_context(turns.turn(tenant))
        waiting = asyncio.ensure_future(stack.enter_async_context(turns.turn("c")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), turns.turn("c"):
        pass
