"""Retries a step of a rebuild or a repair while projectors move the positions that the step depends on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infrastructure.cancellation import raise_if_cancelled
from projections.position_advance import PositionMoved

T = TypeVar("T")


async def retry_while_moved(
    step: Callable[[], Awaitable[T]],
    *,
    first_pause: float = 0.002,
    max_pause: float = 0.05,
    leaves_time: bool = False,
) -> T:
    """Repeats `step` as long as it raises PositionMoved.

    `leaves_time`: sleeps as long as the step took, so that projectors get half of the time.
    """
    pause = first_pause
    while True:
        raise_if_cancelled()
        started = time.monotonic()
        try:
            result = await step()
        except PositionMoved:
            await asyncio.sleep(pause)
            pause = min(max_pause, 2 * pause)
        else:
            if leaves_time:
                await asyncio.sleep(time.monotonic() - started)
                raise_if_cancelled()
            return result
