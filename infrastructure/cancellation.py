"""For loops that end only when their task is cancelled."""

import asyncio


def raise_if_cancelled() -> None:
    """Call this once in each round, after the calls of a store's client.

    Such a call can swallow a CancelledError, or raise another error in its place. Up to Python 3.11,
    `asyncio.wait_for` swallows it if the awaited call has just ended.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
