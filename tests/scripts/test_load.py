"""`scripts.load` loads conversations into a running store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.log import Log
from tests.servers import ROOT, wait_until
from tests.system import System

CONVERSATIONS = 60
END_TIMEOUT_SECONDS = 90.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, empty_stores: dict[str, str]) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("load") / "data", "--no-model", environment=empty_stores)
    yield system.start()
    system.stop()


class Load:
    def __init__(self, system: System, *arguments: str) -> None:
        command = (sys.executable, "-P", "-m", "scripts.load", *arguments, "--data", str(system.data), "--json")
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        self.process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> tuple[int, dict[str, Any], str]:
        """Returns (exit status, JSON of stdout, stderr)."""
        out, err = self.process.communicate(timeout=END_TIMEOUT_SECONDS)
        return self.process.returncode, json.loads(out) if out else {}, err


def test_repeated_loads_of_chitchat_store_each_conversation_once(running: System) -> None:
    log = Log(running.env["POSTGRES_URL"])

    status, first, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).result()

    assert status == 0, err
    assert first["agree"] is True
    assert first["loaded"]["conversations"] == CONVERSATIONS
    assert first["checksums"]["mongodb"]["messages"] == first["loaded"]["messages"]
    events = log.count()
    assert events == CONVERSATIONS + first["loaded"]["messages"]

    status, second, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).result()
    assert status == 0, err
    assert (second["loaded"]["conversations"], second["loaded"]["already_stored"]) == (0, CONVERSATIONS)
    assert second["checksums"] == first["checksums"]

    # Without its progress file, the load sends everything again. The store recognises the idempotency keys.
    (running.data / "load" / "chitchat.jsonl").unlink()
    status, third, err = Load(running, "chitchat", "--limit", str(CONVERSATIONS)).result()
    assert status == 0, err
    assert (third["loaded"]["conversations"], third["loaded"]["already_stored"]) == (0, CONVERSATIONS)
    assert log.count() == events


def test_a_progress_file_of_another_store_is_not_used(running: System) -> None:
    progress_file = running.data / "load" / "chitchat.jsonl"
    progress_file.parent.mkdir(exist_ok=True)
    key = "a07edb12-6b91-4138-b11e-02421888d699"  # the key of the first conversation
    progress_file.write_text(json.dumps({"key": key, "id": f"conv_{'0' * 32}", "messages": 1}) + '\n{"key": "torn')

    status, result, err = Load(running, "chitchat", "--limit", "3").result()

    assert status == 0, err
    assert result["agree"] is True
    assert result["checksums"]["log"]["conversations"] == 3


def test_kills_of_the_api_and_the_load_lose_and_repeat_nothing(system: Callable[..., System]) -> None:
    running = system("--no-model")
    progress_file = running.data / "load" / "chitchat.jsonl"

    def stored() -> int:
        return progress_file.read_text().count("\n") if progress_file.exists() else 0

    def load_until(count: int) -> Load:
        load = Load(running, "chitchat", "--limit", "200", "--connections", "8")
        wait_until(lambda: stored() >= count or load.process.poll() is not None, 60, "the load to store conversations")
        return load

    load = load_until(20)
    running.wait_restarted("api", running.kill("api"))
    assert load.process.poll() is None, load.result()
    load.process.kill()
    load.result()
    before = stored()
    assert before < 200

    load = load_until(before + 20)
    load.process.send_signal(signal.SIGTERM)
    status, _, err = load.result()
    assert status == 130, err

    load = load_until(stored() + 20)
    running.kill("api")
    status, result, err = load.result()

    assert status == 0, err
    assert result["agree"] is True
    assert result["checksums"]["log"]["conversations"] == 200
    assert result["loaded"]["retries"] > 0
    events = 200 + result["checksums"]["log"]["messages"]
    assert Log(running.env["POSTGRES_URL"]).count() == events


def test_a_bad_line_stops_the_load_unless_bad_lines_are_skipped(running: System, tmp_path: Path) -> None:
    log = Log(running.env["POSTGRES_URL"])
    before = log.count()
    good = {"role": "user", "content": "Hello"}
    lines = [
        {"title": "One", "metadata": {"a": "b"}, "instructions": "Be kind.", "items": [good] * 45},
        {"items": [good, {"type": "message", "role": "nobody", "content": ""}]},
        {"items": [good, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
    ]
    file = tmp_path / "some conversations.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    status, _, err = Load(running, str(file), "--check").result()
    assert status == 2
    assert "line 2: `items[1].role`" in err
    assert log.count() == before + 1 + 45

    status, result, err = Load(running, str(file), "--check", "--skip-bad").result()
    assert status == 0, err
    assert "skipped" in err
    assert result["loaded"] == {
        "conversations": 1,
        "messages": 2,
        "already_stored": 1,
        "messages_already_stored": 45,
        "skipped": 1,
        "retries": 0,
    }
    assert result["agree"] is True
    assert log.count() == before + 1 + 45 + 1 + 2

    lines[1] = {"items": [good]}
    file.write_text("\n".join(map(json.dumps, lines)))
    status, result, err = Load(running, str(file)).result()
    assert status == 0, err
    assert (result["loaded"]["conversations"], result["loaded"]["already_stored"]) == (1, 2)


def test_a_load_that_cannot_start_says_why(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    messages = {
        str(tmp_path / "missing.jsonl"): "neither 'chitchat' nor a file",
        "chitchat": "Start the store with scripts/up",
    }
    started = {
        source: subprocess.Popen(
            (sys.executable, "-P", "-m", "scripts.load", source, "--data", str(tmp_path)),
            env={**environment, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in messages
    }
    for source, process in started.items():
        _, err = process.communicate(timeout=END_TIMEOUT_SECONDS)
        assert process.returncode == 2, err
        assert messages[source] in err
