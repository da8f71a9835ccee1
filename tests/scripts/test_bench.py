"""`python -m scripts.bench` finds everything it promises, on a store of its own that it leaves nothing of. How fast is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ROOT

FINISH_SECONDS = 240.0


def bench(place: Path, *arguments: str, long: int = 600) -> tuple[int, dict[str, Any], str]:
    """(status, what it printed, what it said on stderr); its temporary files go to `place`."""
    command = (
        sys.executable,
        "-P",
        "-m",
        "scripts.bench",
        *arguments,
        "--seconds",
        "0.3",
        "--runs",
        "1",
        "--long",
        str(long),
        "--conversations",
        "50",
        "--json",
    )
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=False,
        timeout=FINISH_SECONDS,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_reads_stand_beside_their_floors_and_nothing_is_left_behind(tmp_path: Path) -> None:
    status, results, err = bench(tmp_path, "read")

    assert status == 0, err
    assert_reads_are_measured({figure["name"]: figure for figure in results["figures"]})
    assert_durable(results["durability"])
    assert {"cores", "memory_gb", "python"} <= set(results["machine"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.endless
def test_every_figure_stands_beside_its_floor_on_durable_servers(tmp_path: Path) -> None:
    status, results, err = bench(tmp_path, "all")

    assert status == 0, err
    figures = {figure["name"]: figure for figure in results["figures"]}
    assert_reads_are_measured(figures)
    for connections in ("1 connection", "32 connections"):
        append = figures[f"HTTP append, {connections}"]
        assert append["floor"] == f"no-op, {connections}"
        assert append["ratio"] > 0
        assert append["value"] > 0
        assert 0 < append["p50_ms"] <= append["p99_ms"]
    for name in ("log append, 16 writers", "stock eventsourcing recorder, 16 threads"):
        assert figures[name]["floor"] == "raw INSERTs of one row, 16 connections"
        assert figures[name]["ratio"] > 0
    for used in ("50 active conversations", "10 active conversations of 600 items"):
        memory, peak = figures[f"api process, {used}"], figures[f"api process, {used}, peak"]
        assert figures[memory["floor"]]["value"] == figures[peak["floor"]]["value"] == 300
        assert 0 < memory["value"] <= peak["value"]
        assert 0 < memory["ratio"] <= peak["ratio"]
    assert all(len(figure["runs"]) == 1 for figure in figures.values())

    assert_durable(results["durability"])

    assert {"api", "projector", "postgres", "mongod", "valkey"} <= set(results["memory"])
    assert all(used["pss"] > 0 and used["rss"] > 0 for used in results["memory"].values())
    assert {"cores", "memory_gb", "python"} <= set(results["machine"])
    assert list(tmp_path.iterdir()) == []


def assert_durable(durable: dict[str, Any]) -> None:
    """What is measured is what survives a power cut."""
    assert [durable[f"postgres.{name}"] for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on"] * 3
    assert durable["mongodb.journal"] is True
    assert durable["mongodb.write_concern"] == "j=True, w=majority"


def assert_reads_are_measured(figures: dict[str, Any]) -> None:
    """How soon what was appended is shown, and how long it takes to read it."""
    for rate in (100, 500):
        for account in ("", " by the projector's own account"):
            lag = figures[f"commit to visible{account}, {rate} appends/s"]
            assert 0 <= lag["p50_ms"] <= lag["p99_ms"]
    pages = [
        (figures[f"{page} page of 600 items, {order}"], f"first page of 600 items, {order}")
        for page in ("second", "last")
        for order in ("asc", "desc")
    ]
    contexts = [
        (
            figures[f"context of {items} items{window}"],
            f"one Redis GET and one Postgres look-up, as much as the snapshot of {items} items",
        )
        for items in (20, 600)
        for window in ("", ", large window")
    ]
    for figure, floor in (*pages, *contexts):
        assert figure["floor"] == floor
        assert figures[floor]["value"] > 0
        assert figure["ratio"] > 0
        assert 0 < figure["p50_ms"] <= figure["p99_ms"]


@pytest.mark.endless
def test_a_reply_s_first_word_stands_beside_its_provider_s(tmp_path: Path) -> None:
    status, results, err = bench(tmp_path, "stream")

    assert status == 0, err
    figures = {figure["name"]: figure for figure in results["figures"]}
    first = figures["first word of a reply, 100 streams"]
    assert first["floor"] == "the provider itself, 100 streams"
    assert 0 < first["p50_ms"] <= first["p99_ms"]


@pytest.mark.endless
def test_a_context_of_a_long_conversation_stands_beside_that_of_a_short_one(tmp_path: Path) -> None:
    status, results, err = bench(tmp_path, "context", long=1_200)

    assert status == 0, err
    figures = {figure["name"]: figure for figure in results["figures"]}
    for how in ("with its snapshot", "from the log"):
        long = figures[f"context of 1,200 items {how}"]
        assert long["floor"] == f"context of 1,000 items {how}"
        assert long["ratio"] > 0
        assert 0 < long["p50_ms"] <= long["p99_ms"]


def test_a_store_that_does_not_run_is_said_plainly(tmp_path: Path) -> None:
    status, _, err = bench(tmp_path, "append", "--data", str(tmp_path))

    assert status == 2
    assert "start the store with scripts/up" in err
