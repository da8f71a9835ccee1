"""Runs backfill tasks, each in a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from projections.rebuild.backfill import BackfillProgress, BackfillTask

ROOT = Path(__file__).parents[2]


class BackfillFailed(Exception):
    """The process printed the reason to stderr, unless it was killed."""


async def run_backfill(tasks: Sequence[BackfillTask]) -> AsyncIterator[BackfillProgress]:
    """Yields the tasks' progress. Raises BackfillFailed. Kills the processes when the iterator is closed."""
    command = (sys.executable, "-P", "-m", "projections.rebuild.backfill")
    pipe = asyncio.subprocess.PIPE
    reports: asyncio.Queue[BackfillProgress | None] = asyncio.Queue()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=env) for _ in tasks]

    async def follow(task: BackfillTask, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(task))
        process.stdin.close()
        async for line in process.stdout:
            reports.put_nowait(msgspec.json.decode(line, type=BackfillProgress))
        if await process.wait():
            raise BackfillFailed(f"Backfill process {task.number} exited with status {process.returncode}")

    async def follow_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for task, process in zip(tasks, processes, strict=True):
                    group.create_task(follow(task, process))
        finally:
            reports.put_nowait(None)

    following = asyncio.create_task(follow_all())
    try:
        while (progress := await reports.get()) is not None:
            yield progress
        await following
    except ExceptionGroup as errors:
        raise BackfillFailed(str(errors.exceptions[0])) from errors
    finally:
        following.cancel()
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
