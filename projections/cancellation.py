"""Cancellation that is not lost: up to Python 3.11 `asyncio.wait_for`, in pymongo's network layer, may swallow one."""

import asyncio


def heed_cancellation() -> None:
    """Ends a task that was cancelled and did not notice. Raises CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
