"""schemathesis sends requests that the OpenAPI document allows or forbids, and checks every answer.

`schemathesis.toml` and `hooks.py` in `schemathesis/` explain the exceptions.
"""

import subprocess
from pathlib import Path

import pytest

from tests.clients.recipe import CannotInstall, Environment
from tests.system import System

HERE = Path(__file__).parent / "schemathesis"
CI_SECONDS = 20
LONG_SECONDS = 600


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with schemathesis. Skips the test if it cannot be installed."""
    try:
        Environment(str(HERE), tmp_path).install()
    except CannotInstall as error:
        pytest.skip(str(error))
    for file in HERE.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def run(store: System, directory: Path, seconds: int, *arguments: str) -> None:
    program = directory / "environment" / "bin" / "st"
    done = subprocess.run(
        (str(program), "run", f"{store.base_url}/openapi.json", "--max-time", str(seconds), *arguments),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.clients
def test_twenty_seconds_of_requests_are_answered_as_the_document_says(store: System, directory: Path) -> None:
    run(store, directory, CI_SECONDS, "--seed", "1", "--max-examples", "2", "--no-shrink")


@pytest.mark.endless
def test_ten_minutes_of_requests_are_answered_as_the_document_says(store: System, directory: Path) -> None:
    run(store, directory, LONG_SECONDS, "--max-examples", "100")
