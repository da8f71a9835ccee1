"""Makes `.venv` from `requirements.lock`. It runs with the system's Python, so it uses only the standard library."""

import ast
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
UV = ENVIRONMENT / "bin" / "uv"
STAMP = ENVIRONMENT / "requirements.lock"
"""This file is written last. Without the file, `.venv` is incomplete."""


def main() -> None:
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"{sys.executable} has no {' and no '.join(missing)} (Debian and Ubuntu: apt install python3-venv)")
    try:
        with _one_process():
            if not _is_current():
                _make()
    except OSError as error:
        sys.exit(f"{ENVIRONMENT} could not be made: {error}")


@contextmanager
def _one_process() -> Iterator[None]:
    """Locks the checkout, because `.venv` may not exist yet."""
    directory = os.open(ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process that is making {ENVIRONMENT} …", file=sys.stderr)
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _is_current() -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_bytes() == LOCK.read_bytes()


def _make() -> None:
    print(f"Making {ENVIRONMENT} from {LOCK.name}. This takes about a minute …", file=sys.stderr)
    lock = LOCK.read_bytes()
    complete = PYTHON.exists() and STAMP.exists()
    STAMP.unlink(missing_ok=True)
    if not complete:
        if ENVIRONMENT.exists():
            shutil.rmtree(ENVIRONMENT)
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
    _install_uv(lock.decode())
    _install_all()
    draft = STAMP.with_name("requirements.lock.new")
    draft.write_bytes(lock)
    draft.replace(STAMP)


def _install_uv(lock: str) -> None:
    uv_lines = re.search(r"^uv==.*\n(?:[ \t].*\n)*", lock, re.MULTILINE)
    if uv_lines is None:
        sys.exit(f"{LOCK} does not pin uv.")
    requirements = ENVIRONMENT / "uv.txt"
    requirements.write_text(uv_lines[0])
    install = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    _run(_clean_environment(), *install, "--require-hashes", "--only-binary", ":all:", "-r", str(requirements))


def _install_all() -> None:
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    # Without --compile-bytecode, each start with PYTHONDONTWRITEBYTECODE set would compile all modules again.
    sync = (str(UV), "pip", "sync", *quiet, "--python", str(PYTHON), "--require-hashes", "--compile-bytecode")
    _run(_uv_environment(), *sync, str(LOCK))


def _uv_environment() -> dict[str, str]:
    """pip's configuration under uv's names. Variables already set for uv take precedence."""
    listing = subprocess.run(  # noqa: S603 - as everywhere in this file: our own commands, no shell
        [str(PYTHON), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        env=_clean_environment(),
    )
    # A line is `global.index-url='https://…'`, or `:env:.index-url=…` for a value from the environment.
    settings = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=(.*)$", listing.stdout, re.MULTILINE)
    pip = {name: str(ast.literal_eval(value)) for name, value in settings}
    uv = {
        "UV_DEFAULT_INDEX": pip.get("index-url"),
        "UV_INDEX": _joined(pip.get("extra-index-url"), " "),
        "UV_FIND_LINKS": _joined(pip.get("find-links"), ","),
        "UV_INSECURE_HOST": _joined(pip.get("trusted-host"), " "),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"} else None,
        "SSL_CERT_FILE": pip.get("cert"),
        # As in pip. The hashes make sure that uv installs the right file.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in uv.items() if value} | _clean_environment()


def _joined(value: str | None, separator: str) -> str | None:
    return separator.join(value.split()) if value else None


def _clean_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }


def _run(environment: Mapping[str, str], *command: str) -> None:
    result = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)  # noqa: S603
    if result.returncode != 0:
        sys.exit(
            f"{ENVIRONMENT} could not be made: this command failed with status {result.returncode}:\n  {' '.join(command)}"
        )


if __name__ == "__main__":
    main()
