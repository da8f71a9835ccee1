"""As whom Postgres runs when the supervisor is root, which it refuses to be. Imported by `postgres.py` alone."""

import os
import pwd
import stat
import sys
from pathlib import Path

from infrastructure.embedded.service import Account

USER = "nobody"
# From capabilities(7). Either lets a process pass through directories that are closed to its user.
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
# Lets a process say how its capabilities pass on.
CAP_SETPCAP = 8


class UnreachableError(RuntimeError):
    """A directory on the way is closed to the user that Postgres must run as."""


def account_for(*paths: Path) -> Account | None:
    """None for an ordinary user, who keeps his own account; for root, `nobody`, able to reach every one of `paths`.

    Where a parent is closed to it (a checkout below /root, say), it keeps one capability of root: to read and search
    directories. Raises UnreachableError where this root does not have that capability itself.
    """
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(USER)
    closed = [parent for path in paths for parent in path.resolve().parents if not _open_to(parent, user)]
    if not closed:
        return Account(user.pw_uid, user.pw_gid)
    capability = _capability()
    if capability is None:
        raise UnreachableError(
            f"Postgres does not run as root, and the user {USER!r} it runs as instead cannot pass through {closed[0]}. "
            f"Allow that (chmod o+x {closed[0]}), use directories elsewhere, or run scripts/up as an ordinary user"
        )
    return Account(user.pw_uid, user.pw_gid, capability)


def _open_to(directory: Path, user: pwd.struct_passwd) -> bool:
    if not directory.exists():
        return True
    status = directory.stat()
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _capability() -> int | None:
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text()
    permitted = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    held = {bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE, CAP_SETPCAP) if permitted >> bit & 1}
    if CAP_SETPCAP not in held:
        return None
    return next((bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if bit in held), None)
