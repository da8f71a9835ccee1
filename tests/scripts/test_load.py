"""`python -m scripts.load` as its user runs it, into a whole system that really runs, and really is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.log import Log
from tests.servers import ROOT, wait_until
from tests.system import System

Start = Callable[..., System]

CONVERSATIONS = 60
FINISH_SECONDS = 90.0


class Load:
    """One run of the script."""

    def __init__(self, system: System, *arguments: str) -> None:
        command = (sys.executable, "-P", "-m", "scripts.load", *arguments, "--data", str(system.data), "--json")
        outside = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        self.process = subprocess.Popen(
            command,
            env={**outside, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> tuple[int, dict[str, Any], str]:
        """(status, what it printed, what it said on stderr)."""
        out, err = self.process.communicate(timeout=FINISH_SECONDS)
        return self.process.returncode, json.loads(out) if out else {}, err


def test_chitchat_is_stored_whole_and_a_second_run_stores_nothing_again(system: Start) -> None:
    running = system("--no-model")
    log = Log(running.env["POSTGRES_URL"])

    status, first, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).ended()

    assert status == 0, err
    assert first["agree"] is True
    assert first["loaded"]["conversations"] == CONVERSATIONS
    assert first["held"]["mongodb"]["messages"] == first["loaded"]["messages"]
    events = log.count()
    assert events == CONVERSATIONS + first["loaded"]["messages"]

    status, second, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).ended()
    assert status == 0, err
    assert (second["loaded"]["conversations"], second["loaded"]["there_before"]) == (0, CONVERSATIONS)
    assert second["held"] == first["held"]

    # Without its own notes it asks the store, which knows by the requests' keys.
    (running.data / "load" / "chitchat.jsonl").unlink()
    status, third, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).ended()
    assert status == 0, err
    assert (third["loaded"]["conversations"], third["loaded"]["there_before"]) == (0, CONVERSATIONS)
    assert log.count() == events


def test_notes_about_another_store_are_not_believed(system: Start) -> None:
    running = system("--no-model")
    notes = running.data / "load" / "chitchat.jsonl"
    notes.parent.mkdir()
    key = "a07edb12-6b91-4138-b11e-02421888d699"  # the first of all
    notes.write_text(json.dumps({"key": key, "id": f"conv_{'0' * 32}", "messages": 1}) + '\n{"key": "torn')

    status, result, err = Load(running, "chitchat", "--limit", "3").ended()

    assert status == 0, err
    assert result["agree"] is True
    assert result["held"]["log"]["conversations"] == 3


def test_nothing_acknowledged_is_lost_or_doubled_when_the_api_and_the_load_are_killed(system: Start) -> None:
    running = system("--no-model")
    notes = running.data / "load" / "chitchat.jsonl"

    def finished() -> int:
        return notes.read_text().count("\n") if notes.exists() else 0

    def load_until(count: int) -> Load:
        load = Load(running, "chitchat", "--limit", "200", "--connections", "8")
        wait_until(lambda: finished() >= count or load.process.poll() is not None, 60, "the load to get going")
        return load

    load = load_until(20)
    running.wait_restarted("api", running.kill("api"))
    assert load.process.poll() is None, load.ended()
    load.process.kill()
    load.ended()
    before = finished()
    assert before < 200

    load = load_until(before + 20)
    load.process.send_signal(signal.SIGTERM)
    status, _, err = load.ended()
    assert status == 130, err

    load = load_until(finished() + 20)
    running.kill("api")
    status, result, err = load.ended()

    assert status == 0, err
    assert result["agree"] is True
    assert result["held"]["log"]["conversations"] == 200
    assert result["loaded"]["retries"] > 0
    events = 200 + result["held"]["log"]["messages"]
    assert Log(running.env["POSTGRES_URL"]).count() == events


def test_a_bad_line_stops_the_load_before_what_follows_it_unless_it_is_to_be_skipped(
    system: Start, tmp_path: Path
) -> None:
    running = system("--no-model")
    log = Log(running.env["POSTGRES_URL"])
    good = {"role": "user", "content": "Hello"}
    lines = [
        {"title": "One", "metadata": {"a": "b"}, "instructions": "Be kind.", "items": [good] * 45},
        {"items": [good, {"type": "message", "role": "nobody", "content": ""}]},
        {"items": [good, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
    ]
    file = tmp_path / "some conversations.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    status, _, err = Load(running, str(file), "--check").ended()
    assert status == 2
    assert "line 2: `items[1].role`" in err
    assert log.count() == 1 + 45

    status, result, err = Load(running, str(file), "--check", "--skip-bad").ended()
    assert status == 0, err
    assert "skipped" in err
    assert result["loaded"] == {
        "conversations": 1,
        "messages": 2,
        "there_before": 1,
        "messages_there_before": 45,
        "skipped": 1,
        "retries": 0,
    }
    assert result["agree"] is True
    assert log.count() == 1 + 45 + 1 + 2

    lines[1] = {"items": [good]}
    file.write_text("\n".join(map(json.dumps, lines)))
    status, result, err = Load(running, str(file)).ended()
    assert status == 0, err
    assert (result["loaded"]["conversations"], result["loaded"]["there_before"]) == (1, 2)


def test_what_can_not_be_loaded_is_said_plainly(tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    refused = {
        str(tmp_path / "missing.jsonl"): "neither 'chitchat' nor a file",
        "chitchat": "start the store with scripts/up",
    }
    started = {
        source: subprocess.Popen(
            (sys.executable, "-P", "-m", "scripts.load", source, "--data", str(tmp_path)),
            env={**outside, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in refused
    }
    for source, process in started.items():
        _, err = process.communicate(timeout=FINISH_SECONDS)
        assert process.returncode == 2, err
        assert refused[source] in err
