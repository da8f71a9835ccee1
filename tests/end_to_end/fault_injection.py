"""Injects faults into a running system."""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import psutil
import psycopg
from msgspec import Struct
from psycopg import AsyncConnection, sql
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from infrastructure.event_log.recorder import CHANNEL
from infrastructure.settings import Settings
from projections.view_positions import ViewPositions
from projections.views.catalog import ALL_VIEWS
from scripts.stores import Stores, open_stores
from tests.end_to_end.recording_clients import AcknowledgementCounter
from tests.system import System

Kind = Literal["kill", "freeze", "disconnect", "step down", "flush", "mute"]
KINDS: Sequence[Kind] = ("kill", "freeze", "disconnect", "step down", "flush", "mute")
APIS = {"api": "API_1_URL", "api-2": "API_2_URL"}
PROCESSES = ("projector", "projector-2", "mongod", "valkey", "postgres", *APIS)
DISCONNECTS = 10
DISCONNECT_PAUSE_SECONDS = 0.1
APPENDS_WHILE_MUTE = 20
CATCH_UP_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.02

_NOTIFYING_FUNCTIONS = (
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'append_at_once' AND prosrc LIKE '%NOTIFY events;%'"
)
_DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Fault(Struct, frozen=True):
    kind: Kind
    process: str

    def __str__(self) -> str:
        return f"{self.kind} {self.process}"


FAULTS = (
    *(Fault("kill", name) for name in PROCESSES),
    *(Fault("freeze", name) for name in PROCESSES),
    *(Fault("disconnect", name) for name in ("postgres", "mongod", "valkey")),
    Fault("step down", "mongod"),
    Fault("flush", "valkey"),
    Fault("mute", "postgres"),
)


class FaultInjector:
    """Fails when a fault had no effect."""

    def __init__(self, running: System, settings: Settings, counter: AcknowledgementCounter) -> None:
        self._running = running
        self._settings = settings
        self._counter = counter

    async def inject(self, fault: Fault, freeze_seconds: float) -> None:
        match fault.kind:
            case "kill":
                await self._kill(fault.process)
            case "freeze":
                await self._freeze(fault.process, freeze_seconds)
            case "disconnect":
                await self._disconnect(fault.process)
            case "step down":
                await self._step_down()
            case "flush":
                await self._flush()
            case "mute":
                await self._mute()

    async def _kill(self, name: str) -> None:
        killed = self._running.kill(name, signal.SIGKILL)
        await asyncio.to_thread(self._running.wait_restarted, name, killed)

    async def _freeze(self, name: str, seconds: float) -> None:
        leader = psutil.Process(self._running.pid(name))
        frozen = [leader]
        try:
            leader.suspend()
            frozen += leader.children(recursive=True)
            for process in frozen[1:]:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            await asyncio.sleep(seconds)
            assert leader.status() == psutil.STATUS_STOPPED
        finally:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def _disconnect(self, name: str) -> None:
        """Ends every connection, ten times. For MongoDB, ends every session instead."""
        disconnect = {
            "postgres": self._disconnect_postgres,
            "mongod": self._disconnect_mongod,
            "valkey": self._disconnect_valkey,
        }[name]
        ended = 0
        for _ in range(DISCONNECTS):
            ended += await disconnect()
            await asyncio.sleep(DISCONNECT_PAUSE_SECONDS)
        assert ended, "there was no connection to end: the fault had no effect"

    async def _disconnect_postgres(self) -> int:
        async with await self._postgres() as connection:
            return len(await (await connection.execute(_DISCONNECT)).fetchall())

    async def _disconnect_mongod(self) -> int:
        async with AsyncMongoClient[dict[str, Any]](self._running.env["MONGODB_URL"]) as client:
            sessions = {"$currentOp": {"allUsers": True, "idleSessions": True}}
            ours = {"$match": {"lsid": {"$exists": True}, "appName": "conversation-store"}}
            open_sessions = await (await client.admin.aggregate([sessions, ours])).to_list()
            await client.admin.command("killAllSessions", [])
            return len(open_sessions)

    async def _disconnect_valkey(self) -> int:
        async with Redis.from_url(self._running.env["REDIS_URL"]) as valkey:
            return int(await valkey.client_kill_filter(_type="normal", skipme=True))

    async def _step_down(self) -> None:
        """Stepping down aborts open transactions."""
        async with AsyncMongoClient[dict[str, Any]](self._running.env["MONGODB_URL"]) as client:
            before = await client.admin.command("hello")
            await client.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
            async with asyncio.timeout(CATCH_UP_TIMEOUT_SECONDS):
                while not (now := await client.admin.command("hello"))["isWritablePrimary"]:  # noqa: ASYNC110 - MongoDB sends no notification
                    await asyncio.sleep(_POLL_SECONDS)
            assert now["electionId"] != before["electionId"]

    async def _flush(self) -> None:
        async with Redis.from_url(self._running.env["REDIS_URL"]) as valkey:
            assert await valkey.dbsize(), "Redis was empty: the fault had no effect"
            await valkey.flushall()

    async def _mute(self) -> None:
        """Removes NOTIFY from appends for a while. Views must catch up without NOTIFY."""
        async with await self._postgres() as connection:
            definitions = [text for (text,) in await (await connection.execute(_NOTIFYING_FUNCTIONS)).fetchall()]
            assert definitions
            try:
                for definition in definitions:
                    await connection.execute(definition.replace("NOTIFY events;", "").encode())
                await self._wait_for_appends()  # an append that started earlier may still notify
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                await self._wait_for_appends()
                async with open_stores(self._settings) as stores:
                    await catch_up(stores)
                assert [notify async for notify in connection.notifies(timeout=0.1)] == []
            finally:
                for definition in definitions:
                    await connection.execute(definition.encode())
            await self._wait_for_appends()
            notified = [notify async for notify in connection.notifies(timeout=0.1)]
            assert notified != [], "this connection does not receive NOTIFY, so the test proves nothing"

    async def _wait_for_appends(self) -> None:
        for api in APIS:
            await self._counter.wait_for_more(api, APPENDS_WHILE_MUTE)

    async def _postgres(self) -> AsyncConnection[tuple[Any, ...]]:
        return await AsyncConnection.connect(self._running.env["POSTGRES_URL"], autocommit=True)


async def catch_up(stores: Stores) -> float:
    """Waits until all views show the log. Returns the seconds that this took. Raises TimeoutError after 60 seconds."""
    started = time.monotonic()
    end: int | None = None
    shown: dict[str, int] = {}
    try:
        async with asyncio.timeout(CATCH_UP_TIMEOUT_SECONDS):
            while True:
                with suppress(psycopg.Error, PyMongoError):  # a store may be down
                    end = end if end is not None else await stores.reader.last_position()
                    views = await ViewPositions(stores.database).statuses(ALL_VIEWS)
                    shown = {name: view.position for name, view in views.items()}
                    if all(shown.get(name, 0) >= end for name in ALL_VIEWS):
                        return time.monotonic() - started
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(
            f"after {CATCH_UP_TIMEOUT_SECONDS} s the views are at {shown}, and the log was at {end}"
        ) from error


async def max_lag(stores: Stores, stop: asyncio.Event) -> float:
    """Returns the longest time of one `catch_up`, in seconds."""
    longest = 0.0
    while not stop.is_set():
        longest = max(longest, await catch_up(stores))
    return longest
