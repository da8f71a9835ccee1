"""Installs the packages of a recipe and runs it. A recipe is a program that uses a client library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_TIMEOUT_SECONDS = 120
RUN_TIMEOUT_SECONDS = 120
URL = "http://127.0.0.1:8000"
KEY = '"any"'

_UNREACHABLE = re.compile("error sending request|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ECONNRESET")
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise LiteLLM downloads prices
    "PYTHONWARNINGS": "ignore",
}


class CannotInstall(Exception):
    """The packages cannot be installed. The message says why."""


class Environment:
    """The packages that a folder names, installed in `directory`."""

    def __init__(self, folder: str, directory: Path) -> None:
        self.directory = directory
        self._source = HERE / folder

    def install(self) -> None:
        """Raises CannotInstall without Node, npm or the package index. Other errors: RuntimeError, TimeoutExpired."""
        if (self._source / "requirements.txt").exists():
            self._copy("requirements.txt")
            uv = (sys.executable, "-P", "-m", "uv")
            self._install(*uv, "venv", "--quiet", "--python", sys.executable, "environment")
            self._install(*uv, "pip", "install", "--quiet", "--python", "environment", "-r", "requirements.txt")
        elif shutil.which("node") and shutil.which("npm"):
            self._copy("package.json", "package-lock.json")
            self._install("npm", "ci", "--loglevel=error", "--prefer-offline")
        else:
            raise CannotInstall("node or npm is not installed")

    def _copy(self, *files: str) -> None:
        for file in files:
            shutil.copy(self._source / file, self.directory)

    def _install(self, *command: str) -> None:
        done = _run(*command, directory=self.directory, seconds=INSTALL_TIMEOUT_SECONDS)
        if done.returncode and _UNREACHABLE.search(done.stderr):
            raise CannotInstall(done.stderr.strip()[-300:])
        if done.returncode:
            raise RuntimeError(f"{done.stdout}\n{done.stderr}")


class Recipe:
    """A copy of one program, for the store at `url`."""

    def __init__(self, name: str, environment: Environment, url: str, key: str) -> None:
        source = HERE / name
        self._directory = environment.directory / source.stem
        self._directory.mkdir()
        (self._directory / source.name).write_text(source.read_text().replace(URL, url).replace(KEY, f'"{key}"'))
        programs = environment.directory / "environment" / "bin"
        self._path = f"{programs}:{os.environ['PATH']}"
        program = {".py": [str(programs / "python")], ".mjs": ["node"], ".sh": ["sh", "-eu"]}[source.suffix]
        self._command = [*program, source.name]

    def run(self, *arguments: str) -> list[str]:
        """Returns the printed lines. Raises RuntimeError or TimeoutExpired."""
        done = _run(*self._command, *arguments, directory=self._directory, seconds=RUN_TIMEOUT_SECONDS, PATH=self._path)
        if done.returncode:
            raise RuntimeError(f"{done.stdout}\n{done.stderr}")
        return done.stdout.splitlines()


def _run(*command: str, directory: Path, seconds: float, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env=_ENVIRONMENT | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def names() -> list[str]:
    return sorted(
        f"{file.parent.name}/{file.name}" for file in HERE.glob("*/*") if file.suffix in (".py", ".mjs", ".sh")
    )


def is_chat(name: str) -> bool:
    return Path(name).name.startswith("chat")
