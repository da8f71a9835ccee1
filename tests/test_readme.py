"""The README runs: its Python as it stands, its commands against the same system, its table against the settings."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from infrastructure.settings import Settings
from tests.servers import ROOT
from tests.system import System

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("readme") / "data")
    yield system.start()
    system.stop()


def test_the_conversation_in_ten_lines_runs(running: System) -> None:
    [code] = blocks("python")
    code = code.replace("http://127.0.0.1:8000", running.base_url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "user My name is Ada. Say hello." in done.stdout


def test_the_curl_lines_answer(running: System, tmp_path: Path) -> None:
    (tmp_path / "conversations.jsonl").write_text('{"items": [{"role": "user", "content": "hi"}]}\n')
    with OpenAI(base_url=f"{running.base_url}/v1", api_key="any") as client:
        items = [{"type": "message", "role": "user", "content": f"{n}"} for n in range(3)]
        conversation = client.conversations.create(items=items)  # type: ignore[arg-type]  # plain dicts are what it takes
        response = client.responses.create(input="hi", conversation=conversation.id, max_output_tokens=4)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) == 9
    for line in lines:
        command = line.replace("localhost:8000", running.base_url.removeprefix("http://")).replace(
            "curl -s", "curl -sf"
        )
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "CONVERSATION": conversation.id, "RESPONSE": response.id},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, line
        assert '"object"' in done.stdout, line


def test_the_tools_exist_and_say_what_they_do() -> None:
    modules = set(re.findall(r"python -m (scripts\.\w+)", README))
    assert modules == {f"scripts.{name}" for name in ("load", "replay", "verify", "rebuild", "bench")}
    started = {
        module: subprocess.Popen(
            [sys.executable, "-m", module, "--help"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for module in modules
    }
    for module, process in started.items():
        said, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert ("--against" if module == "scripts.bench" else "--data") in said  # a benchmark starts stores of its own


def test_the_table_names_every_variable_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}


def test_the_files_it_names_are_there() -> None:
    for name in re.findall(r"`((?:domain|commands|queries|projections|infrastructure)/[\w/]+\.py)`", README):
        assert Path(ROOT, name).exists(), name
