"""Runs work until a signal arrives or the work ends."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def stop_signalled() -> asyncio.Event:
    """Set by SIGTERM, Ctrl-C and the loss of the terminal (except under nohup)."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signum is not signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    return stop


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it is done or `stop` is set. Raises what `work` raises."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
    await asyncio.wait({working})
    if not working.cancelled():
        working.result()
