"""Every process killed in the middle of a load, and views lost and rebuilt: the log is what the clients were told."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pymongo
import redis
from openai import OpenAI

from domain.events import ItemAppended
from tests.log import Log
from tests.servers import ROOT
from tests.system import System

UP = ("--no-model",)
WRITERS = 6
PROCESSES = ("api", "projector", "mongod", "valkey", "postgres")
ACKNOWLEDGED_BETWEEN_KILLS = 60
RETRY_SECONDS = 60


class Client:
    """A client that repeats what was not acknowledged, with its key, and keeps account of what was."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.said: dict[str, list[str]] = {}
        self.acknowledged = 0
        self.repeated = 0

    async def create(self) -> str:
        conversation_id: str = (await self._post("/v1/conversations", {}))["id"]
        self.said[conversation_id] = []
        return conversation_id

    async def say(self, conversation_id: str, text: str) -> None:
        item = {"type": "message", "role": "user", "content": text}
        await self._post(f"/v1/conversations/{conversation_id}/items", {"items": [item]})
        self.said[conversation_id].append(text)
        self.acknowledged += 1

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        async with asyncio.timeout(RETRY_SECONDS):
            while True:
                try:
                    answer = await self._http.post(path, json=body, headers=headers)
                except httpx.TransportError:
                    self.repeated += 1
                else:
                    if answer.status_code == 200:
                        return dict(answer.json())
                    assert answer.status_code == 503, answer.text
                    self.repeated += 1
                await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool], seconds: float = RETRY_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)


async def load(base_url: str, meanwhile: Callable[[Client], Awaitable[None]]) -> Client:
    """Writers that write, some into a conversation of their own and some into a shared one, until `meanwhile` is over."""
    async with httpx.AsyncClient(base_url=base_url, timeout=20) as http:
        client = Client(http)
        over = asyncio.Event()
        shared = await client.create()

        async def write(writer: int) -> None:
            own = await client.create()
            n = 0
            while not over.is_set():
                await client.say(own if n % 2 else shared, f"{writer}-{n}")
                n += 1

        writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
        try:
            await meanwhile(client)
        finally:
            over.set()
            await asyncio.gather(*writers)
        return client


def assert_log_is_what_was_acknowledged(running: System, client: Client) -> None:
    log = Log(running.env["POSTGRES_URL"])
    for conversation_id, acknowledged in client.said.items():
        stored = [
            event.item.decode().split('"content":"')[1].split('"')[0]
            for event in log.events(conversation_id)
            if isinstance(event, ItemAppended)
        ]
        assert sorted(stored) == sorted(acknowledged)
        for writer in {text.split("-")[0] for text in stored}:
            mine = [int(text.split("-")[1]) for text in stored if text.startswith(f"{writer}-")]
            assert mine == sorted(mine), "what one client said one after the other is in that order"
        versions = log.versions(conversation_id)
        assert versions == list(range(1, len(versions) + 1))


def assert_views_equal_the_log(running: System) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.verify", "--data", str(running.data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_each_process_killed_during_a_load_loses_and_doubles_nothing(running: System) -> None:
    async def kill_each(client: Client) -> None:
        for name in PROCESSES:
            before = client.acknowledged
            await until(lambda b=before: client.acknowledged >= b + ACKNOWLEDGED_BETWEEN_KILLS)  # type: ignore[misc]
            old = running.kill(name)
            await asyncio.to_thread(running.wait_restarted, name, old)
        before = client.acknowledged
        await until(lambda: client.acknowledged >= before + ACKNOWLEDGED_BETWEEN_KILLS)

    client = await load(running.base_url, kill_each)
    assert client.repeated > 0, "no kill was noticed: the test shows nothing"
    assert_log_is_what_was_acknowledged(running, client)
    assert_views_equal_the_log(running)


def everything(client: OpenAI) -> dict[str, Any]:
    """What every read says of every conversation."""
    listed = client.get("/conversations?limit=100", cast_to=httpx.Response).json()
    found: dict[str, Any] = {"list": listed}
    for conversation in listed["data"]:
        ident = conversation["id"]
        for what in ("", "/items?limit=100&order=asc", "/items?limit=100", "/events?limit=1000", "/context?model=m"):
            found[ident + what] = client.get(f"/conversations/{ident}{what}", cast_to=httpx.Response).json()
    return found


def test_lost_snapshots_and_lost_views_come_back_as_they_were(running: System, client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"a": "b"})
    for n in range(30):
        added = client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": f"{n} 😀"}]
        )
        if n % 7 == 0:
            client.conversations.items.delete(str(added.data[0].id), conversation_id=conversation.id)
    before = everything(client)

    with redis.Redis.from_url(running.env["REDIS_URL"]) as valkey:
        valkey.flushall()
    assert everything(client) == before

    mongo: pymongo.MongoClient[dict[str, Any]]
    with pymongo.MongoClient(running.env["MONGODB_URL"]) as mongo:
        mongo.drop_database("conversations")
    rebuilt = subprocess.run(
        [sys.executable, "-m", "scripts.rebuild", "all", "--data", str(running.data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert everything(client) == before
    assert_views_equal_the_log(running)
