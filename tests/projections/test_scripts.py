"""The scripts `rebuild` and `replay`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS, POSITIONS_COLLECTION
from projections.views.view_position import BUILD_SUFFIX
from scripts.rebuilding.steps import rebuild_in_place
from scripts.replay import replay
from scripts.stores import Stores
from tests.projections.history import write_many_kinds
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.writer import Writer


def _command(world: World, data: Path, module: str, *arguments: str) -> dict[str, Any]:
    urls = {name: getattr(world.settings, name.lower()) for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")}
    command = [sys.executable, "-m", module, *arguments, "--data", str(data)]
    return {"args": command, "env": {**os.environ, **urls}, "text": True}


def run_script(world: World, data: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**_command(world, data, module, *arguments), capture_output=True, check=False, timeout=60)


def _start(world: World, data: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    command = _command(world, data, module, *arguments)
    return subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def _rebuild(world: World, *views: str) -> int:
    stores = Stores(world.settings, world.pool, world.reader, world.database, world.redis)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await rebuild_in_place(stores, views, lambda _done, _total: None)


async def test_a_rebuild_without_a_projector_gives_the_same_views_as_before(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    stored, snapshots = await world.documents(), await world.snapshots()
    assert await _rebuild(world, *ALL_VIEWS) == await world.reader.last_position()
    assert await world.documents() == stored
    assert await world.snapshots() == snapshots


async def test_a_rebuilt_view_is_correct_while_a_projector_runs(write: Writer, live: World) -> None:
    await write_many_kinds(write)
    await live.until(live.caught_up)
    rebuilding = asyncio.create_task(_rebuild(live, "items"))
    for _ in range(3):
        await write_many_kinds(write)
    await live.until(lambda: live.caught_up(["conversations", "responses"]))
    await rebuilding
    await live.until(live.caught_up)
    assert await live.matches_log()


async def test_a_rebuild_corrects_extra_and_missing_documents(write: Writer, world: World) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    await world.database["items"].insert_many({"_id": str(number)} for number in range(5_000))
    await world.database["conversations"].delete_many({})
    await _rebuild(world, "items", "conversations")
    assert await world.matches_log()


async def test_a_rebuild_restores_a_lost_mongodb_database_with_its_indexes(
    write: Writer, world: World, tmp_path: Path
) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    indexes = {view: await world.database[view].index_information() for view in MONGO_VIEWS}
    await world.client.drop_database(world.database.name)
    done = run_script(world, tmp_path, "scripts.rebuild", "all", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["views"], printed["position"]) == (list(ALL_VIEWS), await world.reader.last_position())
    assert await world.matches_log()
    assert {view: await world.database[view].index_information() for view in MONGO_VIEWS} == indexes


async def test_an_interrupted_rebuild_finishes_when_run_again(write: Writer, world: World, tmp_path: Path) -> None:
    await write_many_kinds(write)
    await world.catch_up()
    running = _start(world, tmp_path, "scripts.rebuild", "items")

    async def has_started() -> bool:
        return await world.database[POSITIONS_COLLECTION].find_one({"view": f"items{BUILD_SUFFIX}"}) is not None

    await world.until(has_started)
    running.send_signal(signal.SIGINT)
    _, output = await asyncio.to_thread(running.communicate, timeout=TIMEOUT_SECONDS)
    assert running.returncode == 130
    assert "Run this again" in output
    assert (await world.statuses())["items"].collection == "items"
    assert run_script(world, tmp_path, "scripts.rebuild", "items").returncode == 0
    assert (await world.statuses())["items"].collection == "items_2"
    assert await world.matches_log()


async def test_a_replay_has_the_events_and_the_state_of_the_log(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    replayed = await replay(world.reader, ids["retracted"], None)
    assert [recorded.version for recorded in replayed.events] == list(range(1, 8))
    assert replayed.state is not None
    assert (replayed.state.version, replayed.state.depth) == (7, 5)
    assert [item["content"][0]["text"] for item in replayed.items] == ["keep", "regret", "one", "three"]


async def test_a_replay_of_a_version_shows_the_conversation_at_that_version(
    write: Writer, world: World, tmp_path: Path
) -> None:
    ids = await write_many_kinds(write)
    printed = json.loads(run_script(world, tmp_path, "scripts.replay", ids["retracted"], "--at", "2", "--json").stdout)
    assert (printed["state"]["version"], [event["type"] for event in printed["events"]]) == (
        2,
        ["conversation.started", "item.appended"],
    )
    assert [item["content"][0]["text"] for item in printed["items"]] == ["keep"]


@pytest.mark.parametrize(("conversation_id", "status"), [("conv_nonsense", 2), (f"conv_{0:032x}", 1)])
async def test_a_replay_fails_for_a_malformed_or_unknown_id(
    conversation_id: str, status: int, world: World, tmp_path: Path
) -> None:
    assert run_script(world, tmp_path, "scripts.replay", conversation_id).returncode == status


async def test_a_replay_of_a_missing_version_exits_with_1(write: Writer, world: World, tmp_path: Path) -> None:
    conversation = await write.start("one")
    done = run_script(world, tmp_path, "scripts.replay", conversation, "--at", "9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "2 versions" in done.stderr
