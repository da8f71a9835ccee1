"""Limits the size of the log files of child processes, and reads their last lines."""

import asyncio
import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 16 * 2**20
CHECK_SECONDS = 10.0


async def rotate_until_cancelled(directory: Path) -> None:
    while True:
        await asyncio.to_thread(rotate, directory, MAX_LOG_BYTES)
        await asyncio.sleep(CHECK_SECONDS)


def rotate(directory: Path, max_bytes: int) -> None:
    """Copies and empties each log file that is too large. The child process appends, so
    it continues at the new end.
    """
    for log_file in directory.glob("*.log"):
        if log_file.stat().st_size > max_bytes:
            shutil.copyfile(log_file, log_file.with_name(log_file.name + ".1"))
            os.truncate(log_file, 0)


def last_lines(log_file: Path, count: int) -> str:
    """Reads only the last 8 kB."""
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
