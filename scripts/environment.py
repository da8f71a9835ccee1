"""Makes `.venv` from `requirements.lock`. Run by `scripts/environment.sh` with the system's Python: standard library only.

uv, itself pinned and hashed in the lock, does it in seconds; pip does it where uv has no wheel, or fails.
"""

import ast
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "requirements.lock"
HASHED = ("--require-hashes", "--no-deps")


def main() -> int:
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"{sys.executable} lacks {' and '.join(missing)}: install it (Debian and Ubuntu: apt install python3-venv)",
            file=sys.stderr,
        )
        return 1
    try:
        with _alone():
            if not _is_current():
                _make()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{ENVIRONMENT} could not be made: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time. The lock is on the checkout's directory, which, unlike `.venv`, is always there."""
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
    print(f"Making {ENVIRONMENT} from {LOCK.name}: once, about a minute …", file=sys.stderr)
    lock = LOCK.read_bytes()
    whole = STAMP.exists() and PYTHON.exists()  # made from another lock: bring it up to date in place
    STAMP.unlink(missing_ok=True)
    if not whole:  # never finished, or its interpreter is gone: from the start
        if ENVIRONMENT.exists():
            shutil.rmtree(ENVIRONMENT)
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
    if not (_install_uv(lock.decode()) and _install_with_uv()):
        print("uv cannot do it here: pip does it, which takes some minutes …", file=sys.stderr)
        _run(str(PYTHON), "-m", "pip", "install", "--quiet", *HASHED, "-r", str(LOCK))
    draft = STAMP.with_name("requirements.lock.new")
    draft.write_bytes(lock)
    draft.replace(STAMP)


def _install_uv(lock: str) -> bool:
    pinned = re.search(r"^uv==.*\n(?:[ \t].*\n)*", lock, re.MULTILINE)
    if pinned is None:
        return False
    requirements = ENVIRONMENT / "uv.txt"
    requirements.write_text(pinned[0])
    only = ("--only-binary", ":all:", "-r", str(requirements))
    command = (str(PYTHON), "-m", "pip", "install", "--quiet", *HASHED, *only)
    done = subprocess.run(command, check=False, env=_plain(), capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
    return done.returncode == 0


def _install_with_uv() -> bool:
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    install = (str(ENVIRONMENT / "bin" / "uv"), "pip", "install", *quiet, "--python", str(PYTHON), *HASHED)
    # Compiled once here, not at every start where PYTHONDONTWRITEBYTECODE is set.
    command = (*install, "--compile-bytecode", "-r", str(LOCK))
    done = subprocess.run(command, check=False, env=_as_uv_reads_it(), stdout=sys.stderr)  # noqa: S603
    return done.returncode == 0


def _as_uv_reads_it() -> dict[str, str]:
    """The environment, with pip's configuration (its files included) under uv's names; what is set for uv goes first."""
    shown = subprocess.run(  # noqa: S603 - as everywhere here: our own commands, no shell
        [str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, env=_plain()
    )
    # A line is `global.index-url='https://…'`; the environment's own come as `:env:.index-url`.
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=(.*)$", shown.stdout, re.MULTILINE)
    pip = {name: str(ast.literal_eval(value)) for name, value in found}
    uv = {
        "UV_DEFAULT_INDEX": pip.get("index-url"),
        "UV_INDEX": _joined(pip.get("extra-index-url"), " "),
        "UV_FIND_LINKS": _joined(pip.get("find-links"), ","),
        "UV_INSECURE_HOST": _joined(pip.get("trusted-host"), " "),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"} else None,
        "SSL_CERT_FILE": pip.get("cert"),
        # As pip looks for a package: in every index. The hashes say which file is meant.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in uv.items() if value} | _plain()


def _joined(value: str | None, separator: str) -> str | None:
    return separator.join(value.split()) if value else None


def _plain() -> dict[str, str]:
    """The environment without what would lead a tool to another Python's packages."""
    return {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=_plain(), stdout=sys.stderr)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
