"""A recipe: a program that uses a client library, and the environment that its packages are installed in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_TIMEOUT_SECONDS = 120
RUN_TIMEOUT_SECONDS = 60
URL = "http://127.0.0.1:8000"
"""The store's URL in every recipe."""

_UNREACHABLE = re.compile(
    r"dns error|error sending request|failed to fetch|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT", re.IGNORECASE
)
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise LiteLLM downloads prices
    "PYTHONWARNINGS": "ignore",
}


class CannotInstall(Exception):
    """The packages of a recipe cannot be installed here. The text says why."""


class Recipe:
    """One program of a folder beside this file, copied into `directory` and bound to the store at `url`."""

    def __init__(self, name: str, directory: Path, url: str) -> None:
        source = HERE / name
        self._directory = directory
        self._is_python = source.suffix == ".py"
        packages = ("requirements.txt",) if self._is_python else ("package.json", "package-lock.json")
        for file in packages:
            shutil.copy(source.with_name(file), directory)
        (directory / source.name).write_text(source.read_text().replace(URL, url))
        interpreter = directory / "environment" / "bin" / "python" if self._is_python else "node"
        self._command = [str(interpreter), source.name]

    def install(self) -> None:
        """Installs its packages. Raises CannotInstall if there is no Node, or if the package index cannot be reached."""
        if self._is_python:
            uv = (sys.executable, "-P", "-m", "uv")
            self._install(*uv, "venv", "--quiet", "--python", sys.executable, "environment")
            self._install(*uv, "pip", "install", "--quiet", "--python", "environment", "-r", "requirements.txt")
        elif shutil.which("node") and shutil.which("npm"):
            self._install("npm", "ci", "--silent", "--prefer-offline")
        else:
            raise CannotInstall("node and npm are not installed")

    def run(self, *arguments: str) -> list[str]:
        """Runs it. Returns the lines that it printed. Raises RuntimeError with its errors if it fails."""
        done = self._run(*self._command, *arguments, seconds=RUN_TIMEOUT_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{done.stdout}\n{done.stderr}")
        return done.stdout.splitlines()

    def _install(self, *command: str) -> None:
        done = self._run(*command, seconds=INSTALL_TIMEOUT_SECONDS)
        if done.returncode and _UNREACHABLE.search(done.stderr):
            raise CannotInstall(done.stderr.strip()[-300:])
        if done.returncode:
            raise RuntimeError(f"{done.stdout}\n{done.stderr}")

    def _run(self, *command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self._directory,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


def names() -> list[str]:
    """Every recipe, as `folder/file`."""
    return sorted(f"{file.parent.name}/{file.name}" for file in HERE.glob("*/*") if file.suffix in (".py", ".mjs"))
