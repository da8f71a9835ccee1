"""The benchmarks of `scripts/run bench` run with tiny sizes, and give figures. Speed is not checked."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from infrastructure.rate_limits import RECOMMENDED
from scripts.bench import BENCHMARKS, BenchmarkName
from scripts.benchmarks.bench_store import BenchStore, bench_store, durability
from scripts.benchmarks.benchmark import KEYS_AND_LIMITS, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer, floor_server
from scripts.benchmarks.lists import LISTS, ORDERS, TENANT
from tests.servers import ROOT

FINISH_SECONDS = 120.0
TINY = Sizes(
    seconds=0.3,
    conversations=40,
    long_items=600,
    longest_items=600,
    branches=12,
    branch_samples=3,
    context_tokens=6_000,
    streams=4,
    reply_seconds=0.4,
    dialogues=5,
    searched_dialogues=5,
    active_conversations=20,
    large_items=300,
    image_bytes=10_000,
    listed_conversations=2_500,  # so that every list has more than one page
)


@pytest.fixture(scope="module")
def store() -> Iterator[BenchStore]:
    with (
        floor_server("provider", {"REPLY_SECONDS": str(TINY.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def keyed() -> Iterator[BenchStore]:
    """A store with keys and the recommended limits. The tenant of the benchmarks never reaches its own limits."""
    high = json.loads(KEYS_AND_LIMITS["RATE_LIMITS"])
    own = {holder: {"requests_a_second": None, **limits} for holder, limits in high.items()}
    limits = {**RECOMMENDED.model_dump(), "overrides": {TENANT: own}}
    with (
        floor_server("provider", {"REPLY_SECONDS": str(TINY.reply_seconds)}) as provider,
        bench_store(ROOT, provider.url, {**KEYS_AND_LIMITS, "RATE_LIMITS": json.dumps(limits)}) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def floor(store: BenchStore) -> Iterator[FloorServer]:
    with floor_server("floor_app", store.env) as started:
        yield started


def measured(what: BenchmarkName, store: BenchStore, floor: FloorServer, sizes: Sizes = TINY) -> dict[str, Measurement]:
    benchmark = BENCHMARKS[what](sizes)
    benchmark.prepare(store)
    measurements = benchmark.measure(store)
    floors = dict(benchmark.floors(store, floor))
    assert {name for measurement in measurements for name in measurement.floors} == set(floors)
    assert all(measurement.floors for measurement in measurements)
    # With few requests, a difference of two medians can be below zero.
    values = floors | {measurement.name: measurement.value for measurement in measurements}
    assert all(value > 0 for name, value in values.items() if not name.startswith(("added", "that of")))
    return {measurement.name: measurement for measurement in measurements}


def test_appends_are_measured_at_full_and_at_half_load(store: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.APPEND, store, floor)

    assert measurements["HTTP appends a second, 32 connections"].better == "more"
    assert measurements["HTTP appends a second, 1 connection"].better == "more"
    assert measurements["HTTP append at half load, p50"].value <= measurements["HTTP append at half load, p99"].value


def test_appends_with_keys_and_limits_are_measured(keyed: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.ACCESS, keyed, floor)

    assert measurements["HTTP append at half load, p50"].value <= measurements["HTTP append at half load, p99"].value


@pytest.mark.endless  # it takes half a minute
def test_a_quiet_tenant_is_measured_beside_another_one(keyed: BenchStore, floor: FloorServer) -> None:
    assert set(measured(BenchmarkName.NEIGHBOUR, keyed, floor)) == {
        f"{kind} beside a tenant that does its worst, p99"
        for kind in ("append", "page of items", "list of conversations")
    }


def test_pages_of_the_list_of_conversations_are_measured(keyed: BenchStore, floor: FloorServer) -> None:
    short = replace(TINY, seconds=0.02)  # for each page of each list
    assert set(measured(BenchmarkName.LISTS, keyed, floor, short)) == {
        f"list {each.name}, by {order}, {page} page"
        for each in LISTS
        for order in ORDERS
        for page in ("middle", "last")
    }


def test_branches_are_measured(store: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.BRANCHES, store, floor)

    assert {"revise: 600 items, 12 branches", "context: a path of 12 branches"} <= set(measurements)
    assert len(measurements) == 2 * 6


def test_pages_with_images_are_measured(store: BenchStore, floor: FloorServer) -> None:
    assert set(measured(BenchmarkName.FILES, store, floor)) == {"page of 20 items with images"}


def test_pages_and_the_time_from_commit_to_visible_are_measured(store: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.READ, store, floor)

    p50, p99 = (measurements[f"commit to visible at 500 appends/s, {share}"].value for share in ("p50", "p99"))
    assert p50 <= p99
    assert {"page of the newest 20 items of 600", "page of the oldest 20 items of 600"} <= set(measurements)


def test_contexts_are_measured_from_their_snapshot_and_from_the_log(store: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.CONTEXT, store, floor)

    assert {*measurements} == {
        "context of 20 items",
        "context of 6 items",
        "context of 600 items",
        "context of 6 items, from the log",
        "context of 600 items, from the log",
        "context of 6,000 tokens of short messages",
    }
    assert {"context of 6 items", "context of 600 items, from the log"} < {*measurements["context of 600 items"].floors}


def test_first_words_are_measured_while_replies_stream(store: BenchStore, floor: FloorServer) -> None:
    measurements = measured(BenchmarkName.STREAM, store, floor)

    assert (
        measurements["first word of a reply, 4 streams, p50"].value
        <= measurements["first word of a reply, 4 streams, p99"].value
    )
    assert measurements[
        "added to the first word by a chat completion of 1,000 messages, beyond the cost of sending them"
    ]


def test_a_rebuild_and_its_memory_are_measured(store: BenchStore, floor: FloorServer) -> None:
    assert set(measured(BenchmarkName.REBUILD, store, floor)) == {
        "rebuild of all views, 5 dialogues",
        "memory of a rebuild's largest process, peak PSS",
    }


def test_searches_are_measured_while_items_are_appended(store: BenchStore, floor: FloorServer) -> None:
    assert set(measured(BenchmarkName.SEARCH, store, floor)) == {
        "search, 4 connections, 100 appends/s, p50",
        "search, 4 connections, 100 appends/s, p99",
        "commit to found, median",
        "commit to found, longest",
        "size of the view search with its indexes",
    }


def test_the_memory_of_the_api_process_is_measured(store: BenchStore, floor: FloorServer) -> None:
    assert set(measured(BenchmarkName.MEMORY, store, floor)) == {
        "api process, 20 active conversations, PSS",
        "api process, 5 of 300 items, PSS",
        "api process, peak RSS",
    }


def test_the_measured_stores_are_durable(store: BenchStore) -> None:
    durable = durability(store)

    assert [durable[f"postgres.{name}"] for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on"] * 3
    assert durable["mongodb.journal"] is True


def bench(directory: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Returns (exit status, JSON of stdout, stderr)."""
    done = subprocess.run(
        [ROOT / "scripts" / "run", "bench", *arguments, "--json"],
        env={**os.environ, "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=FINISH_SECONDS,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.endless  # half a minute
def test_comparing_two_checkouts_leaves_no_temporary_file(tmp_path: Path) -> None:
    stores, out = tmp_path / "stores", tmp_path / "results.json"
    stores.mkdir()

    options = ("--against", str(ROOT), "--pairs", "2", "--seconds", "0.2", "--out", str(out))
    status, results, err = bench(stores, "append", *options)

    assert status == 0, err
    assert set(results["trees"]) == {"this checkout", "the other checkout"}
    assert len(results["figures"]) == 4
    for figure in results["figures"]:
        assert figure["compared_with"] == "the other checkout"
        assert len(figure["values"]) == len(figure["others"]) == len(figure["ratios"]) == 2
        assert min(figure["ratios"]) <= figure["ratio"] <= max(figure["ratios"])
        assert figure["ratio"] > 0
    assert json.loads(out.read_text()) == results
    assert list(stores.iterdir()) == []


def test_a_directory_that_is_not_a_checkout_is_refused(tmp_path: Path) -> None:
    status, _, err = bench(tmp_path, "append", "--against", str(tmp_path))

    assert status == 2
    assert f"{tmp_path} is not a checkout" in err
