"""Clients that are generated from the OpenAPI document are typed and usable."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.openapi import FILE
from tests.clients.recipe import CannotInstall, Environment
from tests.system import System

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
PRINTED = "Oslo 2 not_found"


def installed(folder: str, directory: Path) -> Environment:
    """Installs the packages of the folder, or skips the test."""
    environment = Environment(str(HERE / folder), directory)
    try:
        environment.install()
    except CannotInstall as error:
        pytest.skip(str(error))
    for file in (HERE / folder).iterdir():
        if file.is_file():
            (directory / file.name).write_bytes(file.read_bytes())
    (directory / "openapi.json").write_bytes(FILE.read_bytes())
    return environment


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_client_is_typed_and_usable(store: System, tmp_path: Path) -> None:
    programs = installed("python_client", tmp_path).directory / "environment" / "bin"
    generate = ("generate", "--path", "openapi.json", "--config", "config.yml", "--meta", "none")
    output = run(
        tmp_path, str(programs / "openapi-python-client"), *generate, "--output-path", "conversation_store_client"
    )
    assert "Endpoint will not be generated" not in output
    assert "Unable to process schema" not in output
    mypy = (sys.executable, "-P", "-m", "mypy", "--strict", "--disable-error-code=redundant-cast", "--config-file=")
    run(tmp_path, *mypy, f"--python-executable={programs / 'python'}", "use.py")
    assert run(tmp_path, str(programs / "python"), "use.py", store.base_url).strip() == PRINTED


def test_the_typescript_client_is_typed_and_usable(store: System, tmp_path: Path) -> None:
    programs = installed("typescript_client", tmp_path).directory / "node_modules" / ".bin"
    run(tmp_path, str(programs / "openapi-typescript"), "openapi.json", "--output", "schema.d.ts")
    run(tmp_path, str(programs / "tsc"), "--project", "tsconfig.json", "--noEmitOnError")
    assert run(tmp_path, "node", "use.js", store.base_url).strip() == PRINTED
