"""docs/architecture.md lists the files whose code an append runs.

A file that every traced append runs must be listed. Each listed file must run in at least one append.
"""

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from pymongo import MongoClient

from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from infrastructure.stores import mongodb, redis
from infrastructure.stores.postgres import make_pool
from projections.projector import build_projector
from projections.views.catalog import MONGO_VIEWS
from tests.commands.api_client import open_api
from tests.servers import ROOT

PAGE = "docs/architecture.md"
STEPS = "## One append, step by step"
VALUES = "### Values that the append passes"
MAX_STEPS = 12
APPENDS = 8
VISIBLE_SECONDS = 30.0
TIMERS = {
    "commands/open_sockets.py",
    "infrastructure/cancellation.py",
    "infrastructure/limits/month.py",
    "infrastructure/stores/heartbeats.py",
    "projections/leases.py",
    "projections/position_loader.py",
    "projections/projector.py",
    "projections/view_positions.py",
    "replies/active_replies.py",
    "replies/leases.py",
    "replies/orphaned_replies.py",
}
"""Files that need not be listed, because their code also runs without an append."""

PACKAGES = ("domain", "infrastructure", "context", "replies", "projections", "commands", "queries")


def files_below(heading: str) -> list[str]:
    """The Python file at the start of each list item."""
    text = (ROOT / PAGE).read_text()
    section = re.split(r"^#+ ", text[text.index(heading) + len(heading) :], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^(?:\d+\.|-) `([\w/]+\.py)`", section, re.MULTILINE)


@contextmanager
def traced(files: set[str]) -> Iterator[None]:
    """Adds the project's files whose functions are called, also in new threads."""

    def add_file(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT)
            if name.parts[0] in PACKAGES:
                files.add(str(name))

    threading.setprofile(add_file)
    sys.setprofile(add_file)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@asynccontextmanager
async def running_projector(settings: Settings) -> AsyncIterator[None]:
    pool = make_pool(settings.postgres_url, max_size=4)
    client, snapshots = mongodb.connect(settings), redis.connect(settings)
    projector = build_projector(
        postgres_url=settings.postgres_url,
        pool=pool,
        database=mongodb.database(client, settings),
        redis=snapshots,
        metrics=Metrics(),
        views=MONGO_VIEWS,
    )
    await pool.open()
    stop = asyncio.Event()
    running = asyncio.create_task(projector.run(stop))
    yield
    stop.set()
    await running
    await pool.close()
    await client.close()
    await snapshots.aclose()


async def append(api: httpx.AsyncClient, settings: Settings, conversation: str) -> set[str]:
    """Appends an item, and waits for its document. Returns the files of the called functions."""
    files: set[str] = set()
    item = {"type": "message", "role": "user", "content": "hello"}
    with MongoClient[dict[str, object]](settings.mongodb_url) as mongo:
        items = mongo[settings.mongodb_database]["items"]
        items.find_one()  # connects
        with traced(files):
            answer = await api.post(f"/v1/conversations/{conversation}/items", json={"items": [item]})
            assert answer.status_code == 200, answer.text
            async with asyncio.timeout(VISIBLE_SECONDS):
                while items.find_one({"id": answer.json()["first_id"]}) is None:  # noqa: ASYNC110 - no event says when MongoDB has the document
                    await asyncio.sleep(0.001)
    return files


async def test_the_architecture_page_lists_the_files_that_an_append_runs(settings: Settings) -> None:
    steps, values = files_below(STEPS), files_below(VALUES)
    async with running_projector(settings), open_api(settings) as api:
        conversation = (await api.post("/v1/conversations", json={})).json()["id"]
        await append(api, settings, conversation)  # fills the caches
        passed = [await append(api, settings, conversation) for _ in range(APPENDS)]
    listed = {*steps, *values}
    assert len(steps) == len(set(steps)) <= MAX_STEPS
    assert not set(steps) & set(values)
    assert sorted(set.intersection(*passed) - TIMERS - listed) == [], f"passed, but not in {PAGE}"
    assert sorted(listed.difference(*passed)) == [], f"in {PAGE}, but not passed"
