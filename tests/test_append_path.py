"""One append, traced from its HTTP route to the item's document: it passes the files that docs/architecture.md lists, and no other.

The command API and the projector run in this process. A profile function notes the file of every Python function that is called
between the request and the moment the document is there. Timers also run in that time, so only files count that every one of
several appends passes.
"""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
from pymongo import MongoClient

from infrastructure.settings import Settings
from projections.main import project
from tests.commands.replying import open_api
from tests.servers import ROOT

PAGE = "docs/architecture.md"
MAX_STEPS = 12
APPENDS = 8
VISIBLE_SECONDS = 30.0
OURS = ("domain", "infrastructure", "context", "replies", "projections", "commands", "queries")


def listed(heading: str) -> list[str]:
    """The files that the list below this sentence of the page names."""
    text = (ROOT / PAGE).read_text()
    section = text[text.index(heading) + len(heading) :]
    lines = section.split("\n\n")[1].splitlines()
    return [name for line in lines for name in re.findall(r"`([\w/]+\.py)`", line)]


@contextmanager
def traced(files: set[str]) -> Iterator[None]:
    """Adds the file of each of our functions that is called meanwhile, in any thread."""
    inside = {str(ROOT / name) for name in OURS}

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(ROOT)) and frame.f_code.co_name != "<module>":
            path = Path(name).relative_to(ROOT)
            if str(ROOT / path.parts[0]) in inside:
                files.add(str(path))

    threading.setprofile_all_threads(note) if sys.version_info >= (3, 12) else threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def append(api: httpx.AsyncClient, settings: Settings, conversation: str, files: set[str]) -> None:
    """Appends one item, and returns when the view shows it."""
    item = {"type": "message", "role": "user", "content": "hello"}
    # The look itself is not part of the path: a client of its own, in C and pymongo's files alone.
    mongo = MongoClient[dict[str, object]](settings.mongodb_url)
    views = mongo[settings.mongodb_database]["items"]
    with traced(files):
        answer = await api.post(f"/v1/conversations/{conversation}/items", json={"items": [item]})
        assert answer.status_code == 200, answer.text
        [added] = answer.json()["data"]
        async with asyncio.timeout(VISIBLE_SECONDS):
            while views.find_one({"id": added["id"]}) is None:  # noqa: ASYNC110 - the projector runs between two looks
                await asyncio.sleep(0.001)
    mongo.close()


async def test_an_append_passes_the_files_that_the_architecture_page_lists(settings: Settings) -> None:
    steps = []
    values = []
    stop = asyncio.Event()
    projector = asyncio.create_task(project(settings, stop))
    passed: list[set[str]] = []
    try:
        async with open_api(settings) as api:
            conversation = (await api.post("/v1/conversations", json={})).json()["id"]
            for _ in range(APPENDS + 1):
                passed.append(set())
                await append(api, settings, conversation, passed[-1])
    finally:
        stop.set()
        await projector
    always = set.intersection(*passed[1:])  # the first one warms caches up
    assert len(steps) <= MAX_STEPS
    assert sorted(always - {*steps, *values}) == [], f"not in {PAGE}"
    assert sorted({*steps, *values} - set.union(*passed)) == [], f"in {PAGE}, but not on the path"
