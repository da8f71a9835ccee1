"""Large bodies are parsed one at a time, and wait for their turn for a limited time."""

import asyncio

import pytest

from infrastructure.http.errors import ApiError
from infrastructure.http.large_bodies import LargeBodies


async def test_a_body_whose_turn_does_not_come_in_time_is_a_503() -> None:
    bodies = LargeBodies(wait_timeout=0.01)
    async with bodies.turn():
        with pytest.raises(ApiError) as refused:
            async with bodies.turn():
                pass
    assert (refused.value.status, refused.value.code) == (503, "too_many_large_bodies")
    assert refused.value.response().headers["retry-after"] == "1"
    async with bodies.turn():
        pass


async def test_turns_come_in_order_and_a_cancelled_body_leaves_the_line() -> None:
    bodies = LargeBodies()
    order: list[int] = []

    async def parse(number: int) -> None:
        async with bodies.turn():
            order.append(number)

    async with bodies.turn():
        waiting = [asyncio.create_task(parse(number)) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2]
