"""Starts child processes, restarts a child that ends, and stops all children in order."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infrastructure.embedded.directory import DataDirectory, write_private
from infrastructure.embedded.logs import last_lines, rotate_until_cancelled
from infrastructure.embedded.service import Service, WillNotRunError
from infrastructure.settings import Settings

log = logging.getLogger(__name__)

# Seconds before each restart of a child that does not stay up. The last value repeats.
BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
STAYED_UP_SECONDS = 10.0
ATTEMPTS_AT_FIRST_START = 4
PROBE_SECONDS = 0.03


class DoesNotStartError(RuntimeError):
    """A child could not be prepared, or ended several times, before it first served. Or `prepare` raised WillNotRunError."""


@dataclass
class _Child:
    """`keeper` restarts the process. `failures`: how often the process has ended since it last stayed up."""

    service: Service
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    failures: int = 0
    served_once: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def signal(self, signum: signal.Signals) -> bool:
        """Returns False when there is no process."""
        if self.process is None or self.process.returncode is not None:
            return False
        self.process.send_signal(signum)
        return True


class Supervisor:
    """Use it in the main thread. A child gets its death signal when the thread that started the child ends."""

    def __init__(self, directory: DataDirectory, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._children: dict[str, _Child] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log_rotation = asyncio.create_task(rotate_until_cancelled(directory.run))

    def start(self, services: Sequence[Service]) -> None:
        """Does not wait for the services."""
        for service in services:
            child = self._children[service.name] = _Child(service)
            child.keeper = asyncio.create_task(self._keep(child), name=service.name)
            child.keeper.add_done_callback(self._keeper_ended)

    async def wait_until_serving(self, services: Sequence[Service]) -> None:
        """Raises DoesNotStartError when any child cannot start."""

        async def all_serve() -> None:
            for service in services:
                await self._children[service.name].serving.wait()

        waiting = asyncio.create_task(all_serve())
        try:
            await asyncio.wait({waiting, self._failure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._failure.done():
            self._failure.result()

    async def wait_for_failure(self) -> None:
        """Never returns. Raises DoesNotStartError."""
        await asyncio.shield(self._failure)

    async def stop(self, stages: Sequence[Sequence[Service]]) -> None:
        """Stops the stages one after the other."""
        for child in self._children.values():
            child.stopping.set()
        for stage in stages:
            await asyncio.gather(*(self._stop(self._children[s.name]) for s in stage if s.name in self._children))
        self._log_rotation.cancel()
        await asyncio.gather(self._log_rotation, return_exceptions=True)
        if self._failure.done():
            self._failure.exception()  # marks it as retrieved

    async def _stop(self, child: _Child) -> None:
        service, keeper = child.service, child.keeper
        if keeper is None:
            return
        if not child.signal(service.stop_signal):
            keeper.cancel()
        _, unfinished = await asyncio.wait({keeper}, timeout=service.stop_seconds)
        if unfinished and child.signal(signal.SIGKILL):
            log.warning("%s did not stop within %.0f s: killed", service.name, service.stop_seconds)
            await asyncio.wait({keeper})
            # Children of the killed process may still run. The `prepare` of a database server ends them.
            await asyncio.to_thread(service.prepare)

    async def _keep(self, child: _Child) -> None:
        service = child.service
        while not child.stopping.is_set():
            started_at = time.monotonic()
            ending = await self._run_once(child)
            if child.stopping.is_set():
                return
            child.failures = 1 if time.monotonic() - started_at > STAYED_UP_SECONDS else child.failures + 1
            if not child.served_once and child.failures >= ATTEMPTS_AT_FIRST_START:
                log_file = self._directory.log_file(service.name)
                raise DoesNotStartError(
                    f"{service.name} {ending}, {child.failures} times in a row. {log_file}:\n{last_lines(log_file, 12)}"
                )
            delay = BACKOFF_SECONDS[min(child.failures, len(BACKOFF_SECONDS)) - 1]
            log.warning("%s %s: restarting it%s", service.name, ending, f" in {delay} s" if delay else "")
            await asyncio.sleep(delay)

    async def _run_once(self, child: _Child) -> str:
        """Returns how the process ended."""
        try:
            await asyncio.to_thread(child.service.prepare)
        except Exception as error:
            if not child.served_once or isinstance(error, WillNotRunError):
                raise DoesNotStartError(f"{child.service.name} cannot be prepared: {error}") from error
            return f"cannot be prepared ({error})"
        if child.stopping.is_set():
            return "is stopping"
        child.process = await self._spawn(child.service)
        probing = asyncio.create_task(self._probe(child))
        try:
            status = await child.process.wait()
        finally:
            probing.cancel()
            child.serving.clear()
            child.process = None
        return f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"

    async def _spawn(self, service: Service) -> asyncio.subprocess.Process:
        with self._directory.log_file(service.name).open("ab") as log_file:
            process = await asyncio.create_subprocess_exec(
                *service.launch_command(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd=service.directory,
                env={**self._inherited(service), **service.environment},
                pass_fds=service.sockets,
                # A Ctrl-C must reach only the supervisor, which stops the children in order.
                start_new_session=True,
            )
        write_private(self._directory.pid_file(service.name), f"{process.pid}\n")
        return process

    def _inherited(self, service: Service) -> dict[str, str]:
        if service.reads_settings:
            return self._environment
        return {name: value for name, value in self._environment.items() if name.lower() not in Settings.model_fields}

    async def _probe(self, child: _Child) -> None:
        started_at = time.monotonic()
        name = child.service.name
        while not await self._serves(child.service):  # noqa: ASYNC110 - a server does not announce that it serves
            await asyncio.sleep(PROBE_SECONDS)
        suffix = " again" if child.served_once else ""
        log.info("%s serves%s, after %.1f s", name, suffix, time.monotonic() - started_at)
        child.served_once = True
        child.serving.set()

    async def _serves(self, service: Service) -> bool:
        try:
            return await asyncio.to_thread(service.serves)
        except Exception:
            log.exception("cannot check that %s serves", service.name)
            await asyncio.sleep(1)
            return False

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self._failure.done():
            self._failure.set_exception(error)
