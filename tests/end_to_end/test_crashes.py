"""Kills each process under load, and deletes the views and the snapshots."""

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
from tests.servers import ROOT, wait_until_async
from tests.system import System

UP = ("--no-model",)
OWN_STORES = True
WRITERS = 6
PROCESSES = ("api", "projector", "mongod", "valkey", "postgres")
ACKNOWLEDGED_BETWEEN_KILLS = 60
RETRY_TIMEOUT_SECONDS = 60


class RetryingClient:
    """Repeats each request until it is acknowledged. `texts`: the acknowledged texts, by conversation."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.texts: dict[str, list[str]] = {}
        self.acknowledged = 0
        self.retries = 0

    async def create(self) -> str:
        conversation_id: str = (await self._post("/v1/conversations", {}))["id"]
        self.texts[conversation_id] = []
        return conversation_id

    async def append(self, conversation_id: str, text: str) -> None:
        item = {"type": "message", "role": "user", "content": text}
        await self._post(f"/v1/conversations/{conversation_id}/items", {"items": [item]})
        self.texts[conversation_id].append(text)
        self.acknowledged += 1

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        async with asyncio.timeout(RETRY_TIMEOUT_SECONDS):
            while True:
                try:
                    answer = await self._http.post(path, json=body, headers=headers)
                except httpx.TransportError:
                    self.retries += 1
                else:
                    if answer.status_code == 200:
                        return dict(answer.json())
                    assert answer.status_code == 503, answer.text
                    self.retries += 1
                await asyncio.sleep(0.05)


async def load(base_url: str, meanwhile: Callable[[RetryingClient], Awaitable[None]]) -> RetryingClient:
    """Runs writers until `meanwhile` ends."""
    async with httpx.AsyncClient(base_url=base_url, timeout=20) as http:
        client = RetryingClient(http)
        stop = asyncio.Event()
        shared = await client.create()

        async def write(writer: int) -> None:
            own = await client.create()
            n = 0
            while not stop.is_set():
                await client.append(own if n % 2 else shared, f"{writer}-{n}")
                n += 1

        writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
        try:
            await meanwhile(client)
        finally:
            stop.set()
            await asyncio.gather(*writers)
        return client


async def wait_for_more_appends(client: RetryingClient) -> None:
    target = client.acknowledged + ACKNOWLEDGED_BETWEEN_KILLS
    await wait_until_async(lambda: client.acknowledged >= target, RETRY_TIMEOUT_SECONDS, "more acknowledged appends")


def assert_log_is_what_was_acknowledged(running: System, client: RetryingClient) -> None:
    log = Log(running.env["POSTGRES_URL"])
    for conversation_id, acknowledged in client.texts.items():
        stored = [
            event.item.decode().split('"content":"')[1].split('"')[0]
            for event in log.events(conversation_id)
            if isinstance(event, ItemAppended)
        ]
        assert sorted(stored) == sorted(acknowledged)
        for writer in {text.split("-")[0] for text in stored}:
            numbers = [int(text.split("-")[1]) for text in stored if text.startswith(f"{writer}-")]
            assert numbers == sorted(numbers), "the texts of one writer are not in the order in which it sent them"
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


async def test_killing_each_process_under_load_loses_and_repeats_no_append(running: System) -> None:
    async def kill_each(client: RetryingClient) -> None:
        for name in PROCESSES:
            await wait_for_more_appends(client)
            old = running.kill(name)
            await asyncio.to_thread(running.wait_restarted, name, old)
        await wait_for_more_appends(client)

    client = await load(running.base_url, kill_each)
    assert client.retries > 0, "no client noticed a kill, so the test proves nothing"
    assert_log_is_what_was_acknowledged(running, client)
    assert_views_equal_the_log(running)


def all_reads(client: OpenAI) -> dict[str, Any]:
    listed = client.get("/conversations?limit=100", cast_to=httpx.Response).json()
    answers: dict[str, Any] = {"/conversations": listed}
    for conversation in listed["data"]:
        for part in ("", "/items?limit=100&order=asc", "/items?limit=100", "/events?limit=1000", "/context?model=m"):
            path = f"/conversations/{conversation['id']}{part}"
            answers[path] = client.get(path, cast_to=httpx.Response).json()
    return answers


def test_deleted_snapshots_and_views_come_back_the_same(running: System, client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"a": "b"})
    for n in range(30):
        added = client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": f"{n} 😀"}]
        )
        if n % 7 == 0:
            client.conversations.items.delete(str(added.data[0].id), conversation_id=conversation.id)
    before = all_reads(client)

    with redis.Redis.from_url(running.env["REDIS_URL"]) as valkey:
        valkey.flushall()
    assert all_reads(client) == before

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
    assert all_reads(client) == before
    assert_views_equal_the_log(running)
