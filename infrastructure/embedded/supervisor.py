"""One process that starts the others, starts again whichever ends, and stops them in order.

Imported by `scripts/up.py` and `__main__.py`.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infrastructure.embedded.directory import DataDirectory, write_private
from infrastructure.embedded.logs import keep_bounded, last_lines
from infrastructure.embedded.service import Service

log = logging.getLogger(__name__)

# Seconds before the first, second, … restart of a child that does not stay up; the last one repeats.
BACK_OFF = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
STAYED_UP_SECONDS = 10.0
ATTEMPTS_AT_FIRST_START = 4
PROBE_SECONDS = 0.03


class DoesNotStartError(RuntimeError):
    """A child ended again and again before it ever served."""


@dataclass
class _Child:
    """A service and the life of its processes. `failures` counts the deaths since one last stayed up."""

    service: Service
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    failures: int = 0
    served_once: bool = False
    stopping: bool = False


class Supervisor:
    """Keeps services running until `stop`. All of it belongs to one event loop, in the main thread.

    The main thread matters: the kernel's "parent died" signal follows the thread that started a child.
    """

    def __init__(self, directory: DataDirectory, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._children: dict[str, _Child] = {}
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bounding = asyncio.create_task(keep_bounded(directory.run))

    def start(self, services: Sequence[Service]) -> None:
        """Starts services at once, all together; `serving` waits for them."""
        for service in services:
            child = self._children[service.name] = _Child(service)
            child.keeper = asyncio.create_task(self._keep(child), name=service.name)
            child.keeper.add_done_callback(self._keeper_ended)

    async def serving(self, services: Sequence[Service]) -> None:
        """Returns when each of these has answered. Raises DoesNotStartError when any child turns out unable to start."""
        everyone = asyncio.gather(*(self._children[service.name].serving.wait() for service in services))
        try:
            await asyncio.wait({everyone, self._broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            everyone.cancel()
        if self._broken.done():
            self._broken.result()

    async def broken(self) -> None:
        """Waits for ever, but raises what makes it pointless to go on."""
        await asyncio.shield(self._broken)

    async def stop(self, stages: Sequence[Sequence[Service]]) -> None:
        """Stops every child, the first stage first; the members of a stage together. Leaves no process."""
        for child in self._children.values():
            child.stopping = True
        for stage in stages:
            await asyncio.gather(*(self._stop(self._children[s.name]) for s in stage if s.name in self._children))
        self._bounding.cancel()
        await asyncio.gather(self._bounding, return_exceptions=True)
        if self._broken.done():
            self._broken.exception()  # seen

    async def _stop(self, child: _Child) -> None:
        service, keeper = child.service, child.keeper
        if keeper is None:
            return
        if child.process is None:
            keeper.cancel()
        elif child.process.returncode is None:
            child.process.send_signal(service.stop_signal)
        _, late = await asyncio.wait({keeper}, timeout=service.stop_seconds)
        if late and child.process is not None and child.process.returncode is None:
            log.warning("%s did not stop within %.0f s: killed", service.name, service.stop_seconds)
            child.process.kill()
            await asyncio.wait({keeper})
            # Its own children (Postgres has some) outlive a killed parent.
            await asyncio.to_thread(service.prepare)

    async def _keep(self, child: _Child) -> None:
        service = child.service
        while not child.stopping:
            await asyncio.to_thread(service.prepare)
            if child.stopping:
                return
            began = time.monotonic()
            status = await self._live(child)
            if child.stopping:
                return
            child.failures = 1 if time.monotonic() - began > STAYED_UP_SECONDS else child.failures + 1
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            if not child.served_once:
                log.error("%s %s before it served; the end of its log:\n%s", service.name, how, self._log_end(service))
                if child.failures >= ATTEMPTS_AT_FIRST_START:
                    raise DoesNotStartError(f"{service.name} does not start: see {self._directory.log_file(service.name)}")
            delay = BACK_OFF[min(child.failures, len(BACK_OFF)) - 1]
            log.warning("%s %s: starting it again%s", service.name, how, f" in {delay} s" if delay else "")
            await asyncio.sleep(delay)

    async def _live(self, child: _Child) -> int:
        """One life of a child, from its start to its status."""
        service = child.service
        pid_file = self._directory.pid_file(service.name)
        with self._directory.log_file(service.name).open("ab") as log_file:
            child.process = await asyncio.create_subprocess_exec(
                *service.launched_by(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd=service.directory,
                env={**self._environment, **service.environment},
                pass_fds=service.sockets,
                # So that a Ctrl-C at the terminal reaches the supervisor alone, which stops them in order.
                start_new_session=True,
            )
        write_private(pid_file, f"{child.process.pid}\n")
        probing = asyncio.create_task(self._probe(child))
        try:
            return await child.process.wait()
        finally:
            child.serving.clear()
            pid_file.unlink(missing_ok=True)
            probing.cancel()
            child.process = None
            outcome = (await asyncio.gather(probing, return_exceptions=True))[0]
            if isinstance(outcome, Exception):
                log.error("%s could not be asked whether it serves", service.name, exc_info=outcome)

    async def _probe(self, child: _Child) -> None:
        began = time.monotonic()
        while not await asyncio.to_thread(child.service.serves):
            await asyncio.sleep(PROBE_SECONDS)
        log.info(
            "%s serves%s, after %.1f s", child.service.name, " again" if child.served_once else "", time.monotonic() - began
        )
        child.served_once = True
        child.serving.set()

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self._broken.done():
            self._broken.set_exception(error)

    def _log_end(self, service: Service) -> str:
        return last_lines(self._directory.log_file(service.name), 8)
