"""Kills the apis with SIGKILL during uploads, appends and deletions of images."""

import asyncio
import random
import subprocess
import sys
from typing import Any

import httpx
import pytest

from infrastructure.contents.collection import ContentCollector
from infrastructure.stores.postgres import make_pool
from tests.files.samples import data_uri, png, with_image
from tests.log import Log
from tests.servers import ROOT
from tests.system import System

UP = ("--no-model", "--apis", "2")
CONTENTS = 20
"""So few that operations of several clients meet at the same content."""

CLIENTS = 8
SECONDS_BETWEEN_KILLS = (0.1, 0.6)


class Clients:
    """`done`: the number of acknowledged operations."""

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self._http = http
        self._random = random.Random(seed)
        self._images = [png(self._random.choice((100, 300_000))) for _ in range(CONTENTS)]
        self.done = 0

    async def run(self, operations: int) -> None:
        files: list[str] = []
        conversations: list[str] = []
        while self.done < operations:
            image = self._random.choice(self._images)
            try:
                match self._random.randrange(6):
                    case 0 | 1:
                        form: Any = {"data": {"purpose": "vision"}, "files": {"file": ("a.png", image)}}
                        files.append((await self._send("POST", "/v1/files", **form))["id"])
                    case 2 | 3:
                        item = with_image(image_url=data_uri(image))
                        created = await self._send("POST", "/v1/conversations", json={"items": [item]})
                        conversations.append(created["id"])
                    case 4 if files:
                        await self._send("DELETE", f"/v1/files/{files.pop()}")
                    case 5 if conversations:
                        await self._send("DELETE", f"/v1/conversations/{conversations.pop()}")
                    case _:
                        continue
            except (httpx.TransportError, Unavailable):
                await asyncio.sleep(0.05)

    async def _send(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = await self._http.request(method, path, **request)
        if answer.status_code == 503:
            raise Unavailable
        # A deletion whose answer was lost is not repeated. So no answer is a 404.
        assert answer.status_code == 200, answer.text
        self.done += 1
        body: dict[str, Any] = answer.json()
        return body


class Unavailable(Exception):
    pass


@pytest.mark.parametrize("operations", [100, pytest.param(1_000, marks=pytest.mark.endless)])
async def test_kills_leave_no_missing_and_no_unnamed_content(running: System, operations: int) -> None:
    chance = random.Random(operations)
    kills = 0
    async with httpx.AsyncClient(base_url=running.base_url, timeout=30) as http:
        clients = Clients(http, operations)
        working = [asyncio.create_task(clients.run(operations)) for _ in range(CLIENTS)]
        while not all(task.done() for task in working):
            await asyncio.wait(working, timeout=chance.uniform(*SECONDS_BETWEEN_KILLS))
            name = chance.choice(("api", "api-2"))
            old = await asyncio.to_thread(running.kill, name)
            await asyncio.to_thread(running.wait_restarted, name, old)
            kills += 1
        await asyncio.gather(*working)
    assert kills > 0
    log = Log(running.env["POSTGRES_URL"])
    async with make_pool(running.env["POSTGRES_URL"], read_only=False) as pool:
        await ContentCollector(pool, keep_hours=0).collect()
    unnamed = (
        "SELECT count(*) FROM contents AS c WHERE NOT EXISTS (SELECT FROM files AS f WHERE f.sha256 = c.sha256)"
        " AND NOT EXISTS (SELECT FROM content_refs AS r WHERE r.sha256 = c.sha256)"
    )
    assert log.rows(unnamed) == [(0,)]
    command = [sys.executable, "-m", "scripts.verify", "--data", str(running.data)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
