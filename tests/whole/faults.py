"""What test_faults.py does to a running system, and how it is seen that the views have caught up."""

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
from tests.system import System
from tests.whole.accounts import Tally

Kind = Literal["kill", "freeze", "cut", "depose", "flush", "silence"]
KINDS: Sequence[Kind] = ("kill", "freeze", "cut", "depose", "flush", "silence")
APIS = {"api": "API_1_URL", "api-2": "API_2_URL"}
PROCESSES = ("projector", "projector-2", "mongod", "valkey", "postgres", *APIS)
CUTS = 10
CUT_PAUSE_SECONDS = 0.1
WHILE_SILENT = 20
CATCH_UP_SECONDS = 60.0
_LOOK_SECONDS = 0.02

_SPEAKING = (
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'append_at_once' AND prosrc LIKE '%NOTIFY events;%'"
)
_CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Fault(Struct, frozen=True):
    """What is done, and to which process."""

    kind: Kind
    victim: str

    def __str__(self) -> str:
        return f"{self.kind} {self.victim}"


FAULTS = (
    *(Fault("kill", name) for name in PROCESSES),
    *(Fault("freeze", name) for name in PROCESSES),
    *(Fault("cut", name) for name in ("postgres", "mongod", "valkey")),
    Fault("depose", "mongod"),
    Fault("flush", "valkey"),
    Fault("silence", "postgres"),
)


class Faults:
    """Strikes a system that is under load. Each method returns when its fault is over, and fails where it had no effect."""

    def __init__(self, running: System, settings: Settings, tally: Tally) -> None:
        self._running = running
        self._settings = settings
        self._tally = tally

    async def strike(self, fault: Fault, freeze_seconds: float) -> None:
        match fault.kind:
            case "kill":
                await self._kill(fault.victim)
            case "freeze":
                await self._freeze(fault.victim, freeze_seconds)
            case "cut":
                await self._cut(fault.victim)
            case "depose":
                await self._depose()
            case "flush":
                await self._flush()
            case "silence":
                await self._silence()

    async def _kill(self, name: str) -> None:
        killed = self._running.kill(name, signal.SIGKILL)
        await asyncio.to_thread(self._running.wait_restarted, name, killed)

    async def _freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP to the process and (Postgres has some) to its children, SIGCONT after so many seconds."""
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

    async def _cut(self, name: str) -> None:
        """Every connection ends, for a second again and again; MongoDB ends all that runs on its connections instead."""
        cut = {"postgres": self._cut_postgres, "mongod": self._cut_mongod, "valkey": self._cut_valkey}[name]
        ended = 0
        for _ in range(CUTS):
            ended += await cut()
            await asyncio.sleep(CUT_PAUSE_SECONDS)
        assert ended, "nobody was connected"

    async def _cut_postgres(self) -> int:
        async with await self._postgres() as connection:
            return len(await (await connection.execute(_CUT)).fetchall())

    async def _cut_mongod(self) -> int:
        async with AsyncMongoClient[dict[str, Any]](self._running.env["MONGODB_URL"]) as client:
            held = {"$currentOp": {"allUsers": True, "idleSessions": True}}
            ours = {"$match": {"lsid": {"$exists": True}, "appName": "conversation-store"}}
            found = await (await client.admin.aggregate([held, ours])).to_list()
            await client.admin.command("killAllSessions", [])
            return len(found)

    async def _cut_valkey(self) -> int:
        async with Redis.from_url(self._running.env["REDIS_URL"]) as valkey:
            return int(await valkey.client_kill_filter(_type="normal", skipme=True))

    async def _depose(self) -> None:
        """MongoDB's primary steps down for a second, and aborts what is open; then it is elected again."""
        async with AsyncMongoClient[dict[str, Any]](self._running.env["MONGODB_URL"]) as client:
            before = await client.admin.command("hello")
            await client.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while not (now := await client.admin.command("hello"))["isWritablePrimary"]:  # noqa: ASYNC110 - a server tells no one
                    await asyncio.sleep(_LOOK_SECONDS)
            assert now["electionId"] != before["electionId"]

    async def _flush(self) -> None:
        """Redis loses all it has."""
        async with Redis.from_url(self._running.env["REDIS_URL"]) as valkey:
            assert await valkey.dbsize(), "there was nothing to lose"
            await valkey.flushall()

    async def _silence(self) -> None:
        """Appends notify nobody, and the views keep up with them all the same: the functions that append leave NOTIFY out."""
        async with await self._postgres() as connection:
            speaking = [str(it) for (it,) in await (await connection.execute(_SPEAKING)).fetchall()]
            assert speaking
            try:
                for definition in speaking:
                    await connection.execute(definition.replace("NOTIFY events;", "").encode())
                await self._appends()  # what had begun before may still notify
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                await self._appends()
                async with open_stores(self._settings) as stores:
                    await caught_up(stores)
                assert [it async for it in connection.notifies(timeout=0.1)] == []
            finally:
                for definition in speaking:
                    await connection.execute(definition.encode())
            await self._appends()
            assert [it async for it in connection.notifies(timeout=0.1)] != [], "NOTIFY would not have been heard"

    async def _appends(self) -> None:
        for api in APIS:
            await self._tally.more(api, WHILE_SILENT)

    async def _postgres(self) -> AsyncConnection[tuple[Any, ...]]:
        return await AsyncConnection.connect(self._running.env["POSTGRES_URL"], autocommit=True)


async def caught_up(stores: Stores) -> float:
    """The seconds after which every view showed the log's end as it was when this began. Raises TimeoutError that says how far they are."""
    began = time.monotonic()
    head: int | None = None
    shown: dict[str, int] = {}
    try:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while True:
                with suppress(psycopg.Error, PyMongoError):  # a store may be coming back
                    head = head if head is not None else await stores.reader.last_position()
                    places = await ViewPositions(stores.database).statuses(ALL_VIEWS)
                    shown = {view: place.position for view, place in places.items()}
                    if all(shown.get(view, 0) >= head for view in ALL_VIEWS):
                        return time.monotonic() - began
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"after {CATCH_UP_SECONDS} s the views are at {shown}, and the log was at {head}") from error


async def longest_behind(stores: Stores, over: asyncio.Event) -> float:
    """The most seconds that it took until every view showed what was the log's end, until `over`. Raises as `caught_up` does."""
    longest = 0.0
    while not over.is_set():
        longest = max(longest, await caught_up(stores))
    return longest
