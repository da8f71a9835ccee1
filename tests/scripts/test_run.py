"""`scripts/run NAME` runs a tool in the project's environment, from any directory."""

import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "run", *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_tool_runs_in_the_directory_it_is_called_from(tmp_path: Path) -> None:
    """`load` finds the relative path, and does not import `typer.py` from this directory."""
    (tmp_path / "bad.jsonl").write_text("not JSON\n")
    (tmp_path / "typer.py").write_text(
        "raise SystemExit('code was imported from the directory that the tool is called from')"
    )

    done = run(tmp_path, "load", "bad.jsonl", "--base-url", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert "bad.jsonl line 1" in done.stderr


def test_arguments_reach_the_tool(tmp_path: Path) -> None:
    done = run(tmp_path, "replay", "--help")

    assert done.returncode == 0
    assert "--at" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("up",), ("stores",), ("",), ("--help",)])
def test_without_the_name_of_a_tool_the_tools_are_listed(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stderr.splitlines() if line.startswith("  ")}
    assert {"bench", "load", "rebuild", "replay", "verify"} <= set(listed)
    assert not {"up", "api", "gateway", "environment", "stores", "progress"} & set(listed)
    assert all(listed.values())
