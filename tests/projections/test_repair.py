"""`rebuild --conversation` repairs a conversation, parked or not."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from projections.rebuild.repair import PAGE_EVENTS, Repair
from projections.views.catalog import ALL_VIEWS, MONGO_VIEWS, USAGE
from tests.projections.history import write_many_kinds
from tests.projections.poison import (
    cure,
    nothing_parked,
    others_are_exact,
    parked,
    parked_everywhere,
    poison,
)
from tests.projections.world import TIMEOUT_SECONDS, World
from tests.queries.writer import Writer

MANY = 3 * PAGE_EVENTS


async def _repair(world: World, conversation_id: str, **more: Any) -> dict[str, str]:
    head = await world.reader.head(conversation_id)
    assert head is not None
    repair = Repair(conversation_id, head, reader=world.reader, database=world.database, redis=world.redis, **more)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return {result.view: result.outcome for result in await repair.run()}


def _command(world: World, data: Path, *arguments: str) -> dict[str, Any]:
    urls = {name: getattr(world.settings, name.lower()) for name in ("POSTGRES_URL", "MONGODB_URL", "REDIS_URL")}
    command = [sys.executable, "-m", "scripts.rebuild", *arguments, "--data", str(data)]
    return {"args": command, "env": {**os.environ, **urls}, "text": True}


def _run(world: World, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**_command(world, data, *arguments), capture_output=True, check=False, timeout=60)


def _start(world: World, data: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(**_command(world, data, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def _large_and_parked(write: Writer, world: World) -> str:
    """A large conversation that every view has parked. Its sixth event is readable again."""
    victim = await write.start("one", "two", "three", "four")
    for _ in range(MANY // 100):
        await write.append(victim, *map(str, range(100)))
    await write_many_kinds(write)
    state = await poison(world.settings, victim, 6)
    await world.catch_up()
    assert await parked_everywhere(world, victim)
    assert await world.database["items"].count_documents({"conversation_id": victim}) == 4
    await cure(world.settings, victim, 6, state)
    return victim


async def test_a_repair_finishes_after_earlier_repairs_were_interrupted(write: Writer, world: World) -> None:
    victim = await _large_and_parked(write, world)
    interrupted = 0
    for steps in range(1, 100):
        before = await parked(world)
        if not before:
            break  # the last repair was interrupted after its last step
        task = asyncio.create_task(_repair(world, victim))
        await asyncio.wait({task}, timeout=0.03 * steps)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            assert set(task.result().values()) == {"repaired"}
            break
        interrupted += 1
        after = await parked(world)
        assert set(after) <= set(before)
        assert all(set(entries) == {victim} for entries in after.values())
        assert await others_are_exact(world, victim)
    assert interrupted > 2
    assert await nothing_parked(world)
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
async def test_a_killed_or_interrupted_repair_command_finishes_when_run_again(
    signum: int, write: Writer, world: World, tmp_path: Path
) -> None:
    victim = await _large_and_parked(write, world)
    process = _start(world, tmp_path, "--conversation", victim)

    async def has_started() -> bool:
        return any(entries[victim].repair for entries in (await parked(world)).values() if victim in entries)

    await world.until(has_started)
    process.send_signal(signum)
    _, output = await asyncio.to_thread(process.communicate, timeout=TIMEOUT_SECONDS)
    assert signum == signal.SIGKILL or (process.returncode == 130 and "until you run this again" in output)
    assert not await nothing_parked(world)
    done = _run(world, tmp_path, "--conversation", victim, "--json")
    assert done.returncode == 0, done.stderr
    assert {view["outcome"] for view in json.loads(done.stdout)["views"]} == {"repaired"}
    assert await nothing_parked(world)
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()


async def test_a_repair_beside_writes_and_projectors_loses_and_repeats_nothing(write: Writer, world: World) -> None:
    victim = await _large_and_parked(write, world)
    stop = asyncio.Event()
    running = [asyncio.create_task(world.projector().run(stop)) for _ in range(2)]
    repairing = asyncio.create_task(_repair(world, victim))
    other = await write.start()
    while not repairing.done():
        await asyncio.gather(write.append(victim, "meanwhile"), write.append(other, "meanwhile"))
    assert set((await repairing).values()) == {"repaired"}
    await write.append(victim, "behind")
    await world.until(world.caught_up)
    stop.set()
    await asyncio.gather(*running)
    assert await nothing_parked(world)
    assert await world.documents() == await world.expected_documents()


async def test_a_deletion_during_a_repair_leaves_nothing_of_the_conversation(write: Writer, world: World) -> None:
    victim = await _large_and_parked(write, world)
    stop = asyncio.Event()
    running = asyncio.create_task(world.projector().run(stop))
    deleting: list[asyncio.Task[Any]] = []

    def delete(_version: int) -> None:
        if not deleting:
            deleting.append(asyncio.create_task(write.delete(victim)))

    outcomes = await _repair(world, victim, progress=delete)
    await deleting[0]
    await world.until(world.caught_up)
    stop.set()
    await running
    assert set(outcomes) == set(ALL_VIEWS)
    assert "parked" not in outcomes.values()
    assert await nothing_parked(world)
    assert await world.documents() == await world.expected_documents()


async def test_two_repairs_of_one_conversation_at_once_give_correct_documents(write: Writer, world: World) -> None:
    victim = await _large_and_parked(write, world)
    second: list[asyncio.Task[dict[str, str]]] = []

    def start_second(_version: int) -> None:
        if not second:
            second.append(asyncio.create_task(_repair(world, victim)))

    first = await _repair(world, victim, progress=start_second)
    assert "parked" not in {*first.values(), *(await second[0]).values()}
    assert await nothing_parked(world)
    await world.catch_up()
    assert await world.documents() == await world.expected_documents()


async def test_a_repair_corrects_a_conversation_that_is_not_parked(write: Writer, world: World, tmp_path: Path) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    await world.database["items"].delete_one({"conversation_id": ids["retracted"], "depth": 2})
    await world.database["conversations"].update_one({"id": ids["retracted"]}, {"$set": {"title": "else"}})
    await world.database["responses"].delete_many({"conversation_id": ids["answered"]})
    for conversation_id in (ids["retracted"], ids["answered"]):
        done = _run(world, tmp_path, "--conversation", conversation_id)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{view}: repaired" for view in ALL_VIEWS]
    assert await nothing_parked(world)
    assert await world.matches_log()


async def test_a_repair_removes_leftovers_of_a_deleted_conversation(write: Writer, world: World) -> None:
    ids = await write_many_kinds(write)
    await world.catch_up()
    item = await world.database["items"].find_one({"conversation_id": ids["plain"]})
    assert item is not None
    await world.database["items"].insert_one({**item, "_id": "default:x", "conversation_id": ids["deleted"]})
    assert await _repair(world, ids["deleted"]) == dict.fromkeys(ALL_VIEWS, "deleted")
    assert await nothing_parked(world)
    assert await world.matches_log()


async def test_the_command_names_an_event_that_still_cannot_be_applied(
    write: Writer, world: World, tmp_path: Path
) -> None:
    victim = await write.start("one", "two", "three")
    await write_many_kinds(write)
    await poison(world.settings, victim, 3)
    await world.catch_up()
    done = _run(world, tmp_path, "--conversation", victim)
    assert done.returncode == 1
    event = "version 3 (item.appended, position 3) cannot be applied: UnreadableEvent"
    assert done.stdout.splitlines() == [f"{view}: still parked: {event}" for view in ALL_VIEWS]
    printed = json.loads(_run(world, tmp_path, "--conversation", victim, "--json").stdout)
    assert [(view["view"], view["outcome"], view["version"]) for view in printed["views"]] == [
        (view, "parked", 3) for view in ALL_VIEWS
    ]
    assert await parked_everywhere(world, victim)
    assert await others_are_exact(world, victim)
    assert await world.database["items"].count_documents({"conversation_id": victim}) == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 2),
        (("items", "--conversation", f"conv_{0:032x}"), 2),
        (("--conversation", "conv_nonsense"), 2),
        (("--conversation", f"conv_{0:032x}"), 1),
    ],
)
async def test_wrong_arguments_exit_with_status_2_and_unknown_conversations_with_1(
    arguments: tuple[str, ...], status: int, world: World, tmp_path: Path
) -> None:
    assert _run(world, tmp_path, *arguments).returncode == status


async def test_a_repair_writes_nothing_into_views_that_were_never_started(write: Writer, world: World) -> None:
    victim = await write.start("one")
    assert await _repair(world, victim) == dict.fromkeys(ALL_VIEWS, "skipped")
    assert await world.documents() == {view: {} for view in MONGO_VIEWS}
    await world.catch_up()
    assert await world.matches_log()


async def test_a_repair_counts_each_reply_once(write: Writer, world: World) -> None:
    victim = await write.start()
    for _ in range(2):
        await write.reply(victim)
    await write.append(victim, "between")
    between = await world.reader.head(victim)
    assert between is not None
    await write.reply(victim)
    state = await poison(world.settings, victim, between.version)
    await world.catch_up()
    await write.reply(victim)
    await write_many_kinds(write)
    await world.catch_up()
    assert await parked_everywhere(world, victim)
    assert (await _repair(world, victim))["usage"] == "parked"
    await cure(world.settings, victim, between.version, state)
    interrupted = asyncio.create_task(_repair(world, victim))
    await asyncio.wait({interrupted}, timeout=0.05)
    interrupted.cancel()
    await asyncio.wait({interrupted})
    await _repair(world, victim)
    await _repair(world, victim)
    await world.catch_up()
    assert await world.matches_log()


@pytest.mark.parametrize("projected", [True, False])
async def test_a_repair_counts_uncounted_replies_of_a_deleted_conversation(
    projected: bool, write: Writer, world: World
) -> None:
    conversation = await write.start("one", "two")
    state = await poison(world.settings, conversation, 2)
    await world.catch_up()
    await write.reply(conversation)
    await world.catch_up()
    await cure(world.settings, conversation, 2, state)
    await write.delete(conversation)
    if projected:
        await world.catch_up()
    assert set((await parked(world))[USAGE]) == {conversation}
    assert set((await _repair(world, conversation)).values()) == {"deleted"}
    await world.catch_up()
    assert not any(status.parked for status in (await world.statuses()).values())
    assert await world.documents() == await world.expected_documents()
