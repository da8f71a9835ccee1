"""The children's log files stay bounded. Imported by `supervisor.py`."""

import asyncio
import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 16 * 2**20
CHECK_SECONDS = 10.0


async def keep_bounded(directory: Path) -> None:
    """Turns over each `*.log` that has grown past 16 MB, for as long as it runs: at most twice that for each child."""
    while True:
        await asyncio.to_thread(turn_over, directory, MAX_LOG_BYTES)
        await asyncio.sleep(CHECK_SECONDS)


def turn_over(directory: Path, largest: int) -> None:
    """Copies a log that is too long to `<name>.log.1`, then empties it under its writer, who appends and notices nothing."""
    for log_file in directory.glob("*.log"):
        if log_file.stat().st_size > largest:
            shutil.copyfile(log_file, log_file.with_name(log_file.name + ".1"))
            os.truncate(log_file, 0)


def last_lines(log_file: Path, count: int) -> str:
    """The last lines of a file, of at most its last 8 kB."""
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
